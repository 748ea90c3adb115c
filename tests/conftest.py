"""Fixtures. torch and Lightning are imported by the tests, not here: what only distributes tests needs neither."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # several tests run side by side, each with processes of its own

import hypothesis
import pytest

hypothesis.settings.register_profile("many", max_examples=10_000, deadline=None)


def pytest_addoption(parser):
    parser.addini(
        "notebook_list", "the notebook's own names.txt, relative to the project", default="../shared/data/names.txt"
    )


@pytest.fixture
def notebook_list(pytestconfig):
    """The path of the notebook's own list, which is not part of this project."""
    path = pytestconfig.rootpath / pytestconfig.getini("notebook_list")
    if not path.is_file():
        pytest.skip(f"the notebook's list is not at {path}; give its place with -o notebook_list=PATH")
    return str(path)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder with a small list, names.txt."""
    monkeypatch.chdir(tmp_path)
    from tests.helpers import SMALL_LIST

    Path("names.txt").write_text("\n".join(SMALL_LIST), encoding="utf-8")
    return tmp_path


@pytest.fixture
def namemlp(folder, monkeypatch, capsys):
    """Run the command in that folder."""
    from namemlp.__main__ import main

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["namemlp", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def fit(namemlp):
    """Run a small `fit` on names.txt, up to the given step, and expect it to succeed."""
    from tests.helpers import SMALL

    def run(max_steps, *args):
        result = namemlp("fit", "--data.path=names.txt", *SMALL, f"--trainer.max_steps={max_steps}", *args)
        assert result.code == 0, result.err
        return result

    return run
