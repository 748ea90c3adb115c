"""`namemlp describe`: what it says of lists of several kinds."""

from pathlib import Path


def describe(namemlp, names, *args):
    Path("list.txt").write_text("\n".join(names), encoding="utf-8")
    result = namemlp("describe", "--data.path=list.txt", *args)
    assert (result.code, result.err) == (0, "")
    return {line[:17].strip(): line[17:] for line in result.out.splitlines() if not line.startswith(" ")}, result.out


def test_repeated_names_and_what_the_splits_share(namemlp):
    names = ["emma", "bo", "emma", "ida", "emma", "ivo", "una", "kim", "jo", "al"]
    said, _ = describe(namemlp, names, "--data.shuffles=0", "--data.split=[0.5, 0.2, 0.3]")
    assert said["names"] == "10, of which 2 repeat an earlier one (20.0%)"
    assert said["split"] == "5 / 2 / 3 names (train / val / test)"
    assert said["val in train"] == "0 of 2 names also trained on (0.0%)"
    said, _ = describe(
        namemlp, [*names[:5], "emma", "bo", "a", "b", "c"], "--data.shuffles=0", "--data.split=[0.5,0.2,0.3]"
    )
    assert said["val in train"] == "2 of 2 names also trained on (100.0%)"
    said, _ = describe(namemlp, names, "--data.duplicates=drop")
    assert said["split"] == "6 / 1 / 1 names (train / val / test)"


def test_characters_lengths_case_and_white_space(namemlp):
    said, out = describe(namemlp, ["Anna", "anna", "Jo Ann", "ÉMILE", "mcCoy", "x" * 30])
    assert said["characters"].startswith("16: x 30, n 6, a 3, A 2")
    assert "space 1" in said["characters"]
    assert said["rare"].startswith("14 with less than 5 occurrences")
    assert said["lengths"] == "4 to 30 characters, mean 9.0, median 5"
    assert "      4-5         4 ##################################################\n" in out
    assert said["case"] == (
        "2 lower case, 1 upper case, 2 first letters capital, 1 mixed; 1 name as others but for case: "
        "--data.lowercase joins them"
    )
    assert said["white space"] == "within 1 name, such as 'Jo Ann'"
    assert said["first character"] == "entropy 2.58 bits; 2.58 if all 6 were as frequent"


def test_what_looks_like_a_table(namemlp):
    said, _ = describe(namemlp, ["Doe, John", "Roe", "Poe, Al 3"])
    assert said["table"] == "2 names with a comma, 1 name with digits"
    Path("table.csv").write_text("name,count\nemma,3\n")
    result = namemlp("describe", "--data.path=table.csv")
    assert (result.code, result.out) == (2, "")
    assert "looks like a table, its first lines have 1 comma each: keep one column" in result.err


def test_advice_is_a_command_that_runs(namemlp):
    names = [f"{first}{second}" for first in ("an", "be", "ci") for second in ("na", "lo", "ra", "di", "xe")]
    said, _ = describe(namemlp, names)
    command, _ = said["advice"].split(";")
    program, module, name, *args = command.split()
    assert (program, module, name) == ("python", "-m", "namemlp")
    assert args[:3] == ["fit", "--data.path", "list.txt"]
    assert args[-2:] == ["--trainer.max_steps", "100"]
    result = namemlp(*args)
    assert result.code == 0, result.err
    assert "names are soon learned by heart" not in result.out  # which advises the same


def test_a_negative_number_of_shuffles_is_an_error(namemlp):
    result = namemlp("describe", "--data.shuffles=-1")
    assert (result.code, result.out) == (2, "")
    assert result.err == "namemlp: error: shuffles is -1: it must be at least 0\n"


def test_other_scripts(namemlp):
    said, _ = describe(namemlp, ["さくら", "ゆい", "はな", "e\u0301va"])
    assert said["Unicode"] == "1 name with letters and accents apart, such as 'e\u0301va'"
    assert "さ 1" in said["characters"]
    said, _ = describe(namemlp, ["さくら", "ゆい"])
    assert said["case"] == "letters without case"
