import hashlib
import io
import random
import re
import subprocess
import zipfile
from pathlib import Path
from unittest import mock

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from namemlp import NamesDataModule, UserError, Vocabulary
from namemlp.corpus import check_split, encode_names, make_splits, read_names, shuffle_names, split_points
from namemlp.windows import ContextDataset

# Names of any script, also with a space or full stop inside; no line end, and no white space at the edges.
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff\0"), min_size=1, max_size=8)
NAMES = st.lists(NAME.map(str.strip).filter(bool), min_size=1, max_size=12)


def write(folder, data):
    path = folder / "list.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def is_table(names):
    """Whether there are two lines or more, and each has the same number of commas, tabs or semicolons."""
    counts = [{name.count(separator) for name in names} for separator in ",;\t"]
    return len(names) > 1 and any(len(different) == 1 and different != {0} for different in counts)


def notebook_examples(names, characters, context_length):
    """The notebook's loop, whose end mark has an id of its own."""
    contexts, targets = [], []
    for name in names:
        context = [0] * context_length
        for target in [*(characters.index(character, 1) for character in name), 0]:
            contexts.append(context)
            targets.append(target)
            context = [*context[1:], target]
    return contexts, targets


def test_bundled_list_has_the_documented_hash_and_sizes():
    file = Path(__file__).parents[2] / "namemlp" / "names.txt"
    sha256 = "a311634f5113663f131a60cd0c76afb8420199991dbd9045773b8a2949ada835"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    names = read_names()
    assert len(names) == 32_178
    vocabulary = Vocabulary.from_names(names)
    assert vocabulary.characters == ".abcdefghijklmnopqrstuvwxyz"
    assert len(encode_names(names, vocabulary, "list")) == 229_201
    assert max(map(len, names)) == 15
    assert names == file.read_text().split()
    # What checkpoints of all versions know it by.
    sha256 = make_splits(names, None, (0.8, 0.1, 0.1), 42, 1, "list").sha256
    assert sha256 == "bdf0af912fe0935c78033a19070b0abba55dfbd0ad76d9074473c6c8b8a4d31e"


@given(
    NAMES, st.sampled_from(["\n", "\r\n", "\r", "\n\n \n"]), st.sampled_from(["", " ", "\t", "\u3000"]), st.booleans()
)
def test_names_are_read_as_written(tmp_path_factory, names, line_end, space, bom):
    text = line_end.join(space + name + space for name in names)
    path = write(tmp_path_factory.mktemp("lists"), ("\ufeff" if bom else "") + text)

    expected = [line.strip() for line in re.split("\r\n|\n|\r", text) if line.strip()]
    if is_table(expected):
        with pytest.raises(UserError, match="looks like a table"):
            read_names(path)
        return
    names = read_names(path)
    assert names == expected
    vocabulary = Vocabulary.from_names(names)
    assert vocabulary.characters == "." + "".join(sorted(set("".join(expected))))
    ids = encode_names(names, vocabulary, "list")
    assert vocabulary.decode(torch.from_numpy(ids)) == "".join(name + "." for name in expected)


@given(NAMES, st.integers(1, 6), st.randoms())
def test_examples_are_those_of_the_notebook(names, context_length, shuffler):
    vocabulary = Vocabulary.from_names(names)
    shuffler.shuffle(names)
    x, y = ContextDataset(encode_names(names, vocabulary, "list"), context_length)[:]
    contexts, targets = notebook_examples(names, vocabulary.characters, context_length)
    assert x.tolist() == contexts
    assert y.tolist() == targets


def test_an_example_takes_a_byte():
    names = read_names()
    ids = encode_names(names, Vocabulary.from_names(names), "list")
    assert ids.nbytes == 229_201
    first, *others = ContextDataset(ids, 3).columns
    assert first.base.nbytes == 229_201 + 3
    assert all(column.base is first.base for column in others)


def test_lowercase_is_optional(tmp_path):
    path = write(tmp_path, "Émile\nÅsa\n")
    assert read_names(path) == ["Émile", "Åsa"]
    assert read_names(path, lowercase=True) == ["émile", "åsa"]


@pytest.mark.parametrize("chunk_bytes", range(1, 12))
def test_lowercase_does_not_depend_on_where_a_chunk_ends(tmp_path, chunk_bytes):
    path = write(tmp_path, "ΟΔΥΣΣΕΥΣ\nΣΑΣ\n")  # a Σ is lowered to ς at the end of a word alone
    with mock.patch("namemlp.corpus.CHUNK_BYTES", chunk_bytes):
        assert read_names(path, lowercase=True) == ["οδυσσευς", "σας"]


def test_a_list_can_be_a_url():
    with fsspec.open("memory://lists/names.txt", "wb") as file:
        file.write("李\n王\n".encode())
    assert read_names("memory://lists/names.txt") == ["李", "王"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no names"),
        (b"\xef\xbb\xbf\n \r\n", "holds no names"),
        (b"emma\r\nolivia\r\nj\xfcrgen\r\n", "line 3: not valid UTF-8; save the file as UTF-8"),
        (b"\xef\xbb\xbfemma\nj\xfcrgen\n", "line 2: not valid UTF-8"),
        ("emma".encode("utf-16"), "line 1: not valid UTF-8"),
        (b"emma\nav\0a\n", "line 2: contains a NUL byte; save the file as UTF-8"),
    ],
)
def test_invalid_lists_are_errors(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_names(path)
    assert str(error.value).startswith(path)


@pytest.mark.parametrize(
    ("data", "columns", "cut", "names"),
    [
        ("emma,F,18688\nolivia,F,17921\n", "2 commas", "cut -d,", ["emma", "olivia"]),
        ("name,sex\r\n\r\nemma,F\r\n", "1 comma", "cut -d,", ["name", "emma"]),
        ("Doe, John\nRoe, Jane\n", "1 comma", "cut -d,", ["Doe", "Roe"]),
        ("emma\tF, girls\t18688\nolivia\tF, girls\t17921\n", "2 tabs", "cut", ["emma", "olivia"]),
        ("emma;F\nolivia;F\n", "1 semicolon", "cut -d';'", ["emma", "olivia"]),
    ],
)
def test_a_table_is_an_error_with_a_command_that_makes_a_list_of_it(tmp_path, data, columns, cut, names):
    path = write(tmp_path, data)
    command = f"{cut} -f1 {path} > list_names.txt"
    with pytest.raises(UserError) as error:
        read_names(path)
    what = f"looks like a table, its first lines have {columns} each"
    assert str(error.value) == f"{path} {what}: keep one column, as with {command}"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert read_names(str(tmp_path / "list_names.txt")) == names


@pytest.mark.parametrize("source", ["memory://lists/yob.csv", "zip://yob.csv::memory://lists/yob.zip"])
def test_a_table_behind_a_url_is_an_error(source):
    fsspec.filesystem("memory").pipe("/lists/yob.csv", b"emma,F\nolivia,F\n")
    with fsspec.open("memory://lists/yob.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("yob.csv", "emma,F\nolivia,F\n")
    message = "looks like a table, its first lines have 1 comma each: keep one column, as with cut -d, -f1"
    with pytest.raises(UserError) as error:
        read_names(source)
    assert str(error.value) == f"{source} {message}"


@pytest.mark.parametrize("data", ["emma,F", "emma\nSmith, Jr.\nRoe, Jane\n", "a,b\nc,d,e\n", "emma\t\nolivia\t\n"])
def test_commas_in_some_names_make_no_table(tmp_path, data):
    assert read_names(write(tmp_path, data)) == [line.strip() for line in data.splitlines()]


def test_a_table_is_found_by_its_first_1000_lines(tmp_path):
    assert len(read_names(write(tmp_path, "emma,F\n" * 999 + "emma\n"))) == 1000
    with pytest.raises(UserError, match="looks like a table"):
        read_names(write(tmp_path, "emma,F\n" * 1000 + "emma\n"))


# What a file may be made of, in any order: line ends, white space, marks, characters of one to four bytes, and rubbish.
PIECES = [b"\n", b"\r", b"\r\n", b" ", b"\t", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b".", b"\0", b"a", b"Bo"]
PIECES += [
    b",",
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
def test_any_bytes_are_read_as_by_a_simple_reader_or_are_an_error(tmp_path_factory, data, chunk_bytes):
    """`pytest tests/core/test_corpus.py -k any_bytes --hypothesis-profile many` tries 10,000."""
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    try:
        text = data.decode("utf-8-sig")
        expected = [name.strip() for name in re.split("\r\n|\r|\n", text) if name.strip()]
        is_invalid = "\0" in text or not expected or is_table(expected)
    except UnicodeDecodeError:
        is_invalid = True
    with mock.patch("namemlp.corpus.CHUNK_BYTES", chunk_bytes):
        if not is_invalid:
            assert read_names(str(path)) == expected
            return
        with pytest.raises(UserError) as error:
            read_names(str(path))
    assert re.match(rf"{re.escape(str(path))}( holds no names: | looks like a table, |, line \d+: )", str(error.value))


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_an_endless_line_is_an_error_after_a_few_megabytes(line_end):
    sizes = []

    class Endless(MemoryFileSystem):
        def _open(self, path, mode, **_):
            file = io.BytesIO(b"emma" + line_end + b"ava" + line_end)
            read = file.read

            def read_endlessly(size):
                sizes.append(size)
                return read(size) or b"a" * size

            file.read = read_endlessly
            return file

    fsspec.register_implementation("endless", Endless, clobber=True)
    with pytest.raises(UserError, match=r"endless://names\.txt, line 3: longer than 10,000 characters"):
        read_names("endless://names.txt")
    assert sum(sizes) <= 2**24


def test_missing_file_folder_and_unknown_protocol(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_names(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="is a folder"):
        read_names(str(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        read_names("nosuchprotocol://names.txt")


def test_characters_missing_from_a_given_vocabulary_are_shown(tmp_path):
    path = write(tmp_path, "abé\nax\n")
    message = f"{path} has 2 characters that the model does not know: 'x', 'é'"
    with pytest.raises(UserError, match=re.escape(message)):
        encode_names(read_names(path), Vocabulary(".ab"), path)
    with pytest.raises(UserError, match=re.escape(message)):
        NamesDataModule(path, vocabulary=".ab", split=(0.4, 0.3, 0.3)).setup("fit")


def test_a_full_stop_is_unknown_to_a_model_whose_list_had_none(tmp_path):
    path = write(tmp_path, "ab\na.b\n.\n")
    with pytest.raises(UserError, match=re.escape(f"{path} has 1 character that the model does not know: '.'")):
        encode_names(read_names(path), Vocabulary(".ab"), path)
    assert encode_names(read_names(path), Vocabulary("..ab"), path).tolist() == [2, 3, 0, 2, 1, 3, 0, 1, 0]


def test_too_many_characters_are_an_error_that_names_the_file(tmp_path):
    names = [chr(code) for code in range(0x10000, 0x10000 + 2**16)]
    path = write(tmp_path, "\n".join(names))
    with pytest.raises(
        UserError, match=rf"{re.escape(path)}: 65,537 different characters exceed the maximum of 65,536"
    ):
        NamesDataModule(path).setup("fit")


@given(st.integers(1, 50), st.integers(0, 4), st.integers(0, 2**32))
def test_shuffle_is_that_of_a_list_shuffled_in_place(n, shuffles, seed):
    words = list(range(n))
    for _ in range(shuffles):
        random.seed(seed)
        random.shuffle(words)
    assert shuffle_names(list(range(n)), seed, shuffles) == words


@given(st.integers(6, 100_000))
def test_default_split_is_that_of_the_notebook(n):
    assert split_points(n, (0.8, 0.1, 0.1)) == (int(0.8 * n), int(0.9 * n))


def test_split_loses_no_name_to_rounding():
    assert split_points(30, (0.7, 0.2, 0.1)) == (21, 27)


@pytest.mark.parametrize(
    ("n", "fractions", "message"),
    [
        (5, (0.8, 0.1, 0.1), "list has 5 names, too few for a split of [0.8, 0.1, 0.1], which gives 4 / 0 / 1"),
        (1, (0.8, 0.1, 0.1), "list has 1 name, too few"),
        (9, (0.8, 0.1, 0.2), "add up to 1"),
        (9, (1.0, 0.1, -0.1), "above 0"),
    ],
)
def test_impossible_splits_are_errors(n, fractions, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_split(n, fractions, "list")


def test_splits_are_identified_by_the_names_in_the_order_of_the_file():
    def sha256(names, shuffles=1):
        return make_splits(names, Vocabulary("..abc"), (0.4, 0.3, 0.3), 42, shuffles, "list").sha256

    assert sha256(["ab", "c", "a"]) == sha256(["ab", "c", "a"], shuffles=3)
    lists = ["ab", "c", "a"], ["a", "bc", "a"], ["c", "ab", "a"], ["ab", "c"]
    lists += ["ab.c", "a"], ["ab", "c.a"], ["ab.c.a"], ["ab.", "c.a"]
    assert len({sha256(names) for names in lists}) == 8


@given(NAMES, NAMES)
def test_only_equal_lists_have_the_same_sha256(first, second):
    first = [name.replace("a", ".") for name in first]
    for other in (second, ".".join(first).split("."), [".".join(first)]):
        sha256 = [make_splits(names, None, (0.4, 0.3, 0.3), 42, 1, "list").sha256 for names in (first, other)]
        assert (sha256[0] == sha256[1]) == (first == other)
