"""What a long list comes to is kept beside it, and never believed."""

import os
import random
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from namemlp import NamesDataModule, UserError, store
from namemlp.corpus import read_corpus

FILES = [".names.txt.corpus.pt", ".names.txt.splits.pt"]
# With several parts, and more characters than a byte tells apart.
NAMES = [f"{chr(0x4E00 + i % 300)}{'abcdefghij'[i % 10] * (i % 7)}{i}" for i in range(2000)]


@pytest.fixture(autouse=True)
def every_list_is_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "LEAST", 1)
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")


def ready(**settings):
    """All that training takes from a list."""
    data = NamesDataModule("names.txt", **settings)
    data.setup("fit")
    corpus = data.corpus
    windows = [part for split in (data.train_set, data.val_set, data.test_set) for part in split[:]]
    known = torch.from_numpy(np.array(corpus.known))
    return [corpus.names, corpus.sizes.tolist(), str(corpus.vocabulary), corpus.digest, corpus.source, known, *windows]


def same(one, other):
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(one, other, strict=True))


def as_read(**settings):
    """The same without anything kept."""
    with mock.patch("namemlp.datamodule.is_long", lambda path: False):
        return ready(**settings)


def test_the_second_start_reads_what_is_kept():
    expected = as_read()
    assert not Path(FILES[0]).exists()
    assert same(ready(), expected)
    with mock.patch.object(store, "read_corpus"), mock.patch("namemlp.datamodule.split_stream"):
        assert same(ready(), expected)


def test_nothing_is_kept_beside_a_short_list(monkeypatch):
    monkeypatch.setattr(store, "LEAST", 10**6)
    ready()
    assert [path.name for path in Path().iterdir()] == ["names.txt"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_written_anew(name):
    expected = ready()
    file, chance = Path(name), random.Random(name)
    whole = file.read_bytes()
    cuts = [0, 1, len(whole) // 2, len(whole) - 1]
    changed = [bytearray(whole) for _ in range(30)]
    for content in changed:
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    for content in [whole[:cut] for cut in cuts] + changed + [b"PK\3\4", b"names", whole + b"more"]:
        file.write_bytes(content)
        assert same(ready(), expected)
    file.write_bytes(whole[: len(whole) // 2])
    ready()
    assert file.read_bytes() == whole


def test_a_changed_list_is_read_again():
    ready()
    time = Path("names.txt").stat().st_mtime_ns
    Path("names.txt").write_text("\n".join(NAMES).replace("1999", "1998"), encoding="utf-8")
    os.utime("names.txt", ns=(time, time))
    assert "1998" in ready()[0][-1]
    assert same(ready(), as_read())


@pytest.mark.parametrize(
    "settings",
    [
        {"lowercase": True},
        {"shuffles": 3},
        {"split_seed": 1},
        {"split": (0.5, 0.3, 0.2)},
        {"context_length": 70},
        {"vocabulary": ".0123456789abcdefghijZ" + "".join(chr(0x4E00 + i) for i in range(300))},
    ],
)
def test_other_settings_are_not_served_by_it(settings):
    Path("names.txt").write_text("\n".join(name.upper() for name in NAMES), encoding="utf-8")
    if "vocabulary" in settings:
        Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    ready()
    assert same(ready(**settings), as_read(**settings))


def test_a_checkpoints_vocabulary_is_served_by_what_a_fresh_start_kept():
    expected = ready()
    with mock.patch.object(store, "read_corpus"), mock.patch("namemlp.datamodule.split_stream"):
        assert same(ready(vocabulary=expected[2]), expected)


@pytest.mark.parametrize(
    "name, array, value", [(FILES[0], "ids", 30_000), (FILES[0], "sizes", 3), (FILES[1], "stream", 9999)]
)
def test_what_cannot_be_of_this_list_is_not_believed(name, array, value):
    expected = ready()
    held = torch.load(name, weights_only=True)
    held["values"][array][70] = value
    values = {key: each.numpy() if torch.is_tensor(each) else each for key, each in held["values"].items()}
    held["digest"] = store._digest(values)
    torch.save(held, name)
    assert same(ready(), expected)


def test_a_list_that_changes_while_it_is_read_is_not_kept(monkeypatch):
    def read(*args):
        corpus = read_corpus(*args)
        Path("names.txt").write_text("emma", encoding="utf-8")
        return corpus

    monkeypatch.setattr(store, "read_corpus", read)
    with pytest.raises(UserError, match="was changed while it was read"):
        ready()
    assert not any(Path(name).exists() for name in FILES)


def test_two_processes_that_start_at_once_both_have_it():
    code = """
import sys
from namemlp import NamesDataModule, UserError, store
from namemlp.corpus import read_corpus
store.LEAST = 1
sys.stdin.readline()
data = NamesDataModule("names.txt")
data.setup("fit")
print(data.corpus.digest, len(data.corpus.known), int(data.train_set[:][0].sum()))
"""
    Path("names.txt").write_text("\n".join(name * 3 for name in NAMES * 50), encoding="utf-8")
    start = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate() for process in processes]
    assert [err for _, err in told] == [""] * 3
    assert len({out for out, _ in told}) == 1
    corpus, expected = ready()[3], as_read()
    assert told[0][0].split()[0] == corpus == expected[3]
    assert {path.name for path in Path().iterdir()} == {"names.txt", *FILES, ".names.txt.lock"}


def test_where_nothing_can_be_written_nothing_is_kept():
    Path(".names.txt.lock").mkdir()
    assert same(ready(), as_read())
    assert not any(Path(name).exists() for name in FILES)


def test_a_full_disk_keeps_nothing(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert same(ready(), as_read())
    assert not list(Path().glob(".names.txt.*.pt*[!k]"))
