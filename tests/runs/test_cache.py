"""The cache of long lists: used where it is valid, and only there."""

import os
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from namemlp import NamesDataModule, UserError, datamodule
from namemlp.runs import cache
from tests.processes import Command

FILE, LOCK = ".names.txt.splits.pt", ".names.txt.splits.lock"
# More characters than a byte tells apart.
NAMES = [f"{chr(0x4E00 + i % 300)}{'abcdefghij'[i % 10] * (i % 7)}{i}" for i in range(2000)]
CHARACTERS = ".0123456789abcdefghijZ" + "".join(chr(0x4E00 + i) for i in range(300))  # one more than in the names


@pytest.fixture(autouse=True)
def every_list_is_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "MIN_BYTES", 1)
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")


def load(**settings):
    """All that training takes from a list."""
    data = NamesDataModule("names.txt", **settings)
    data.setup("fit")
    values = {
        k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for k, v in vars(data.splits).items()
    }
    examples = [part for split in (data.train_set, data.val_set, data.test_set) for part in split[:]]
    return [*values.values(), data.vocabulary.characters, *examples]


def load_without_cache(**settings):
    with mock.patch.object(cache, "MIN_BYTES", 2**40):
        return load(**settings)


def is_same(ours, theirs):
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def list_must_not_be_read():
    """Call it: from then on the list may neither be parsed nor split."""

    def forbid(monkeypatch):
        for name in ("read_names", "make_splits"):
            monkeypatch.setattr(datamodule, name, mock.Mock(side_effect=AssertionError("the list is read")))

    with pytest.MonkeyPatch.context() as monkeypatch:
        yield lambda: forbid(monkeypatch)


def test_the_second_start_reads_the_cache(list_must_not_be_read):
    expected = load_without_cache()
    assert not Path(FILE).exists()
    assert is_same(load(), expected)
    list_must_not_be_read()
    assert is_same(load(), expected)


def test_a_short_list_is_not_cached(monkeypatch):
    monkeypatch.setattr(cache, "MIN_BYTES", 10**6)
    load()
    assert [path.name for path in Path().iterdir()] == ["names.txt"]


def test_a_damaged_cache_is_replaced():
    expected = load()
    file, rng = Path(FILE), random.Random(1)
    whole = file.read_bytes()
    cuts = [0, 1, len(whole) // 2, len(whole) - 1]
    changed = [bytearray(whole) for _ in range(30)]
    for content in changed:
        content[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    for content in [whole[:cut] for cut in cuts] + changed + [b"PK\3\4", b"names", whole + b"more"]:
        file.write_bytes(content)
        assert is_same(load(), expected)
    file.write_bytes(whole[: len(whole) // 2])
    load()
    assert file.read_bytes() == whole


def test_a_changed_list_is_read_again():
    before = load()
    time = Path("names.txt").stat().st_mtime_ns
    Path("names.txt").write_text("\n".join(NAMES).replace("1999", "1998"), encoding="utf-8")
    os.utime("names.txt", ns=(time, time))
    after = load()
    assert not is_same(after, before)
    assert is_same(after, load_without_cache())


@pytest.mark.parametrize(
    "settings",
    [
        {"lowercase": True},
        {"shuffles": 3},
        {"split_seed": 1},
        {"split": (0.5, 0.3, 0.2)},
        {"context_length": 70},
        {"vocabulary": CHARACTERS},
    ],
    ids=str,
)
def test_other_settings_are_not_served_from_the_cache(settings):
    if "vocabulary" not in settings:
        Path("names.txt").write_text("\n".join(name.upper() for name in NAMES), encoding="utf-8")
    load()
    assert is_same(load(**settings), load_without_cache(**settings))


def test_a_given_vocabulary_is_not_cached_as_that_of_the_list():
    assert is_same(load(vocabulary=CHARACTERS), load_without_cache(vocabulary=CHARACTERS))
    assert is_same(load(), load_without_cache())


def test_the_vocabulary_of_a_checkpoint_is_served_from_the_cache(list_must_not_be_read):
    expected = load()
    list_must_not_be_read()
    assert is_same(load(vocabulary="".join(sorted(set(CHARACTERS) - {"Z"}))), expected)


@pytest.mark.parametrize("value", [30_000, 0])
def test_ids_that_cannot_be_of_this_list_are_not_used(value):
    expected = load()
    saved = torch.load(FILE, weights_only=True)
    position = int((saved["splits"]["ids"] > 0).nonzero()[70])
    saved["splits"]["ids"][position] = value
    torch.save(saved, FILE)
    assert is_same(load(), expected)


def test_a_list_that_changes_while_it_is_read_is_not_cached(monkeypatch):
    def read(*args, read_names=datamodule.read_names):
        names = read_names(*args)
        Path("names.txt").write_text("emma", encoding="utf-8")
        return names

    monkeypatch.setattr(datamodule, "read_names", read)
    with pytest.raises(UserError, match="was changed while it was read"):
        load()
    assert not Path(FILE).exists()


def test_processes_that_start_at_once_share_the_cache():
    code = """
from namemlp import NamesDataModule
from namemlp.runs import cache
from tests.processes import Command
cache.MIN_BYTES = 1
data = NamesDataModule("names.txt")
data.setup("fit")
print(data.splits.sha256, len(data.splits.name_hashes), int(data.train_set[:][0].sum()))
"""
    Path("names.txt").write_text("\n".join(name * 3 for name in NAMES * 50), encoding="utf-8")
    Path("setup.py").write_text(code)
    commands = [Command(script="setup.py") for _ in range(3)]
    outputs = {command.result() for command in commands}
    Path("setup.py").unlink()
    assert [command.err for command in commands] == [""] * 3
    data = NamesDataModule("names.txt")
    assert [output.split()[0] for output in outputs] == [data.splits.sha256]
    assert is_same(load(), load_without_cache())
    assert {path.name for path in Path().iterdir()} == {"names.txt", FILE, LOCK}


def test_no_cache_is_written_without_a_lock():
    Path(LOCK).mkdir()
    assert is_same(load(), load_without_cache())
    assert not Path(FILE).exists()


def test_a_cache_is_read_where_nothing_can_be_written(list_must_not_be_read):
    expected = load()
    Path(LOCK).unlink(missing_ok=True)
    Path(LOCK).mkdir()
    list_must_not_be_read()
    assert is_same(load(), expected)


def test_a_full_disk_leaves_no_cache(monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert is_same(load(), load_without_cache())
    assert {path.name for path in Path().iterdir()} <= {"names.txt", LOCK}


def test_a_list_that_may_not_be_read_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with (
        mock.patch("fsspec.open", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(UserError, match=r"names\.txt cannot be read: .*Permission denied"),
    ):
        load()
