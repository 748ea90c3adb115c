import hashlib
import io
import random
import re
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from namemlp import UserError, Vocabulary
from namemlp.corpus import read_corpus
from namemlp.splits import flat_stream, shuffled_order, split_sizes
from namemlp.windows import ContextWindows

# Names of any script, also with a space inside; no end mark, and no line end or white space at the edges.
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=".\n\r\ufeff\0"), min_size=1, max_size=8)
NAMES = st.lists(NAME.map(str.strip).filter(bool), min_size=1, max_size=12)


def write(folder, data):
    path = folder / "list.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def notebook_windows(names, characters, context_length):
    """The notebook's loop."""
    contexts, targets = [], []
    for name in names:
        context = [0] * context_length
        for character in name + ".":
            target = characters.index(character)
            contexts.append(context)
            targets.append(target)
            context = [*context[1:], target]
    return contexts, targets


def test_bundled_list_is_the_one_the_readme_names():
    file = Path(__file__).parent.parent / "namemlp" / "names.txt"
    digest = "a311634f5113663f131a60cd0c76afb8420199991dbd9045773b8a2949ada835"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    corpus = read_corpus()
    assert len(corpus) == 32_178
    assert len(corpus.ids) == 229_201
    assert corpus.vocabulary.characters == ".abcdefghijklmnopqrstuvwxyz"
    assert max(map(len, corpus.names)) == 15
    assert corpus.names == file.read_text().split()


@given(
    NAMES, st.sampled_from(["\n", "\r\n", "\r", "\n\n \n"]), st.sampled_from(["", " ", "\t", "\u3000"]), st.booleans()
)
def test_reads_what_was_written(tmp_path_factory, names, line_end, space, bom):
    text = line_end.join(space + name + space for name in names)
    path = write(tmp_path_factory.mktemp("lists"), ("\ufeff" if bom else "") + text)

    expected = [line.strip() for line in re.split("\r\n|\n|\r", text) if line.strip()]
    corpus = read_corpus(path)
    assert corpus.names == expected
    assert corpus.sizes.tolist() == [len(name) + 1 for name in expected]
    assert corpus.vocabulary.characters == "." + "".join(sorted(set("".join(expected))))


@given(NAMES, st.integers(1, 6), st.randoms())
def test_windows_are_the_notebooks(tmp_path_factory, names, context_length, shuffle):
    corpus = read_corpus(write(tmp_path_factory.mktemp("lists"), "\n".join(names)))
    order = list(range(len(names)))
    shuffle.shuffle(order)
    x, y = ContextWindows(flat_stream(corpus, np.array(order), context_length), context_length)[:]
    shuffled = [names[i] for i in order]
    contexts, targets = notebook_windows(shuffled, corpus.vocabulary.characters, context_length)
    assert x.tolist() == contexts
    assert y.tolist() == targets


def test_an_example_takes_a_byte():
    corpus = read_corpus()
    stream = flat_stream(corpus, np.arange(len(corpus)), 3)
    assert stream.nbytes == 229_201 + 3
    assert np.shares_memory(ContextWindows(stream, 3).columns[0], stream)


def test_lower_case_is_only_made_on_demand(tmp_path):
    path = write(tmp_path, "Émile\nÅsa\n")
    assert read_corpus(path).names == ["Émile", "Åsa"]
    assert read_corpus(path, lowercase=True).names == ["émile", "åsa"]


def test_a_list_can_be_a_url():
    with fsspec.open("memory://lists/names.txt", "wb") as file:
        file.write("李\n王\n".encode())
    assert read_corpus("memory://lists/names.txt").names == ["李", "王"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no names"),
        (b"\xef\xbb\xbf\n \r\n", "holds no names"),
        (b"emma\r\nolivia\r\nj\xfcrgen\r\n", "line 3: not UTF-8"),
        (b"\xef\xbb\xbfemma\nj\xfcrgen\n", "line 2: not UTF-8"),
        ("emma".encode("utf-16"), "line 1: not UTF-8"),
        (b"emma\r\n\r\nmary j. blige\r\n", "line 3: '.' inside a name"),
    ],
)
def test_bad_lists_are_refused(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_corpus(path)
    assert str(error.value).startswith(path)


# What a file may be made of, in any order: line ends, white space, marks, characters of one to four bytes, and rubbish.
PIECES = [b"\n", b"\r", b"\r\n", b" ", b"\t", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b".", b"\0", b"a", b"Bo"]
PIECES += [
    "é".encode(),
    "李".encode(),
    "\U0001f600".encode(),
    b"\xed\xa0\x80",
    b"\xff",
    b"\xc3",
    b"\x80",
    b"\xf4\x90\x80\x80",
]


@given(
    st.binary() | st.text().map(str.encode) | st.lists(st.sampled_from(PIECES)).map(b"".join),
    st.integers(1, 12) | st.just(2**22),
)
def test_any_bytes_are_read_as_a_plain_reader_would_or_refused(tmp_path_factory, data, part):
    """`pytest tests/test_corpus.py -k any_bytes --hypothesis-profile many` tries 10,000."""
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        text = data.decode("utf-8-sig")
        expected = [name.strip() for name in re.split("\r\n|\r|\n", text) if name.strip()]
        wrong = "." in text or "\0" in text or not expected
    except UnicodeDecodeError:
        wrong = True
    with mock.patch("namemlp.corpus.PART", part):
        if not wrong:
            assert read_corpus(str(path)).names == expected
            return
        with pytest.raises(UserError) as error:
            read_corpus(str(path))
    assert re.match(rf"{re.escape(str(path))}( holds no names: |, line \d+: )", str(error.value))


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_a_line_without_end_is_refused_when_it_has_gone_too_far(tmp_path, line_end):
    """And not when a file of any size has been read."""
    read = []

    class Endless(MemoryFileSystem):
        def _open(self, path, mode, **_):
            file = io.BytesIO(b"emma" + line_end + b"ava" + line_end)
            endless = file.read

            def read_on(size):
                read.append(size)
                return endless(size) or b"a" * size

            file.read = read_on
            return file

    fsspec.register_implementation("endless", Endless, clobber=True)
    with pytest.raises(UserError, match=r"endless://names\.txt, line 3: longer than 10,000 characters"):
        read_corpus("endless://names.txt")
    assert sum(read) <= 2**24


def test_missing_file_folder_and_unknown_protocol(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_corpus(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="is a folder"):
        read_corpus(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        read_corpus("nosuchprotocol://names.txt")


def test_characters_that_a_given_vocabulary_lacks_are_shown(tmp_path):
    with pytest.raises(UserError, match="2 characters that the model does not know: 'x', 'é'"):
        read_corpus(write(tmp_path, "abé\nax\n"), vocabulary=Vocabulary(".ab"))


@given(st.integers(1, 50), st.integers(0, 4), st.integers(0, 2**32))
def test_order_is_that_of_a_list_shuffled_in_place(n, shuffles, seed):
    words = list(range(n))
    for _ in range(shuffles):
        random.seed(seed)
        random.shuffle(words)
    assert shuffled_order(n, seed, shuffles).tolist() == words


@given(st.integers(6, 100_000))
def test_default_split_is_the_notebooks(n):
    if min(split := (int(0.8 * n), int(0.9 * n) - int(0.8 * n), n - int(0.9 * n))) > 0:
        assert split_sizes(n, (0.8, 0.1, 0.1), "list") == split


def test_split_loses_no_name_to_rounding():
    assert split_sizes(30, (0.7, 0.2, 0.1), "list") == (21, 6, 3)


@pytest.mark.parametrize(
    ("n", "fractions", "message"),
    [
        (5, (0.8, 0.1, 0.1), "list has 5 names, too few for a split of [0.8, 0.1, 0.1], which gives 4 / 0 / 1"),
        (1, (0.8, 0.1, 0.1), "list has 1 name, too few"),
        (9, (0.8, 0.1, 0.2), "add up to 1"),
        (9, (1.0, 0.1, -0.1), "above 0"),
    ],
)
def test_impossible_splits_are_refused(n, fractions, message):
    with pytest.raises(UserError, match=re.escape(message)):
        split_sizes(n, fractions, "list")
