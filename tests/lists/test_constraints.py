"""Names under constraints: by the command and from Python."""

import re
from pathlib import Path

import pytest

from namemlp import NameModule, UserError
from namemlp.lists import Constraints
from tests.helpers import SMALL_LIST

CONSTRAINTS = {
    ("--min_length=9",): lambda name: len(name) >= 9,
    ("--suffix=a",): lambda name: name.endswith("a"),
    ("--contains=an",): lambda name: "an" in name,
    ("--pattern=[a-m]+",): lambda name: re.fullmatch("[a-m]+", name),
    ("--avoid=avoid.txt",): lambda name: not re.search("ia|jü", name.lower()),
    ("--apart=1",): lambda name: name not in SMALL_LIST,
    ("--apart=3",): lambda name: min(edit_distance(name, known) for known in SMALL_LIST[:10]) >= 3,
    ("--min_length=4", "--suffix=a", "--apart=2", "--unique"): lambda name: len(name) >= 4 and name.endswith("a"),
    ("--prefix=a", "--contains=l", "--temperature=1.5", "--top_k=9"): lambda name: name[0] == "a" and "l" in name,
}


def edit_distance(first, second):
    row = [*range(len(second) + 1)]
    for i, a in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@pytest.fixture
def sample(fit, namemlp):
    fit(200, "--optimizer.lr=0.1", "--model.init=scaled")
    Path("avoid.txt").write_text("IA\n\njü\n", encoding="utf-8")

    def run(*args):
        return namemlp("sample", "--ckpt_path=last", "--seed=1", *args)

    return run


def test_all_names_fulfil_what_is_asked_for(sample):
    for args, is_wanted in CONSTRAINTS.items():
        result = sample("--num_names=200", *args)
        names = result.out.splitlines()
        assert (result.code, len(names)) == (0, 200), args
        assert all(map(is_wanted, names)), args
        assert sample("--num_names=50", *args).out.splitlines() == names[:50], args
        everything = sample("--num_names=200").out.splitlines()
        if len(args) == 1:  # the others are as they were
            wanted = [name for name in everything if is_wanted(name)]
            assert 0 < len(wanted) < 200, args
            assert names[: len(wanted)] == wanted, args


def test_names_by_probability(sample):
    scored = sample("--num_names=50", "--scores").out.splitlines()
    result = sample("--num_names=50", "--scores", "--by_probability").out.splitlines()
    assert result == sorted(scored, key=lambda line: -float(line.split("\t")[1]))
    assert result != scored
    assert sample("--num_names=50", "--by_probability").out.splitlines() == [line.split("\t")[0] for line in result]


def test_few_accepted_draws_are_reported(sample):
    assert sample("--num_names=20", "--suffix=a").err == ""
    result = sample("--num_names=20", "--pattern=.*(nn|ll).*(nn|ll).*")
    assert len(result.out.splitlines()) == 20
    accepted, drawn = re.fullmatch(r"([\d,]+) of ([\d,]+) draws were accepted\n", result.err).groups()
    assert 20 <= int(accepted) < 0.01 * int(drawn.replace(",", ""))
    one = sample("--num_names=1", "--pattern=.*(nn|ll).*(nn|ll).*(nn|ll).*")
    assert re.fullmatch(r"(1 of [\d,]+ draws was|[2-9] of [\d,]+ draws were) accepted\n", one.err), one.err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--suffix=xß"], "suffix 'xß' has 2 characters that the model does not know: 'x', 'ß'; it knows KNOWN"),
        (["--contains=."], "contains '.' has 1 character that the model does not know: '.'; it knows KNOWN"),
        (["--min_length=20", "--max_length=10"], "max_length is 10: min_length needs 20, raise --max_length"),
        (["--suffix=aaa", "--max_length=2"], "max_length is 2: suffix needs 3, raise --max_length"),
        (["--min_length=0"], "min_length is 0: it must be at least 1"),
        (["--apart=0"], "apart is 0: it must be at least 1"),
        (["--pattern=("], "pattern '(' is not a regular expression: missing ), unterminated subpattern at position 0"),
        (
            ["--pattern=a{99999999999}"],
            "pattern 'a{99999999999}' is not a regular expression: the repetition number is too large",
        ),
        (["--avoid=none.txt"], "none.txt cannot be read (No such file or directory): give another --avoid"),
        (["--avoid=latin.txt"], "latin.txt: not valid UTF-8; save the file as UTF-8"),
        (
            ["--pattern=[0-9]+", "--min_length=2"],
            "--min_length, --pattern: only 0 such names came in DRAWN draws: ask for fewer, or for less",
        ),
        (
            ["--apart=2", "--data.path=none.txt"],
            "none.txt: no such file; data.path takes a list of names, one per line: give the list that PATH was "
            "trained on as --data.path",
        ),
        (
            ["--apart=2", "--data.path=avoid.txt"],
            "avoid.txt is not the list that PATH was trained on: give that as --data.path",
        ),
    ],
    ids=str,
)
def test_impossible_demands_end_in_a_sentence(sample, args, sentence):
    Path("latin.txt").write_bytes("zoë".encode("latin-1"))
    Path("avoid.txt").write_text("emma\nbo\n")
    result = sample(*args)
    assert (result.code, result.out) == (2, "")
    sentence = sentence.replace("PATH", "lightning_logs/version_0/checkpoints/last.ckpt")
    sentence = sentence.replace("KNOWN", "".join(sorted(set("".join(SMALL_LIST)))))
    expected = re.escape(f"namemlp: error: {sentence}\n").replace("DRAWN", r"1\d\d,\d\d\d")
    assert re.fullmatch(expected, result.err), result.err


def test_constraints_in_python(sample):
    model = NameModule.load_from_checkpoint("lightning_logs/version_0/checkpoints/last.ckpt")
    wanted = Constraints(min_length=4, suffix="a", avoid=["Ann"])
    names = model.sample(20, seed=1, accept=wanted)
    assert len(names) == 20
    assert all(len(name) >= 4 and name.endswith("a") and "ann" not in name for name in names)
    assert wanted.num_accepted >= 20
    with pytest.raises(UserError, match="apart is 2: give known_names, the names to compare with"):
        Constraints(apart=2)
    with pytest.raises(UserError, match="only 0 such names"):
        model.sample(1, accept=Constraints(apart=50, known_names=SMALL_LIST))
