"""README and docs: short enough, links that resolve, Python that runs, commands that the program takes."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.processes import Command

PROJECT = Path(__file__).parents[1]
README, PAGES = PROJECT / "README.md", sorted((PROJECT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#([\w-]+))?\)")
SHORTER = {"max_steps=50_000": "max_steps=5", "2_000": "20", "1_000": "10", "=500": "=5", "100000": "100"}
FAILS = ("--optimizer.lr 0.02 --trainer", "stranger.yaml")  # the page shows their errors


def name_of(page):
    return page.name


def blocks(page, language):
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def shorten(text):
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_pages_are_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= (150 if page == README else 120)


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_links_resolve(page):
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_every_page_is_linked_from_another():
    linked = {Path(path).name for page in (README, *PAGES) for path, _ in LINK.findall(page.read_text("utf-8"))}
    assert {page.name for page in PAGES} <= linked


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_python_runs(folder, page):
    for code in blocks(page, "python"):
        Path("block.py").write_text(shorten(code), encoding="utf-8")
        command = Command(script="block.py")
        command.result()
        assert command.err == ""  # no warnings, and none of Lightning's tips


@pytest.fixture
def trained(namemlp):
    """A folder with the configs, a run of the notebook's model on a small list, and files of a stranger."""
    shutil.copytree(PROJECT / "configs", "configs")
    base = namemlp("fit", "--config=configs/base.yaml", "--data.path=names.txt", "--trainer.max_steps=5")
    assert base.code == 0, base.err
    shutil.copy("lightning_logs/version_0/checkpoints/last.ckpt", "stranger.ckpt")
    Path("avoid.txt").write_text("qu\n")
    Path("stranger.yaml").write_text("optimizer: {class_path: os.system}")


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_commands_run(namemlp, trained, page):
    lines = [line for text in blocks(page, "") for line in text.splitlines() if "-m namemlp " in line]
    for line in lines:
        _, command = shorten(line).split("-m namemlp ")
        arguments = shlex.split(command)
        if arguments[0] in ("fit", "lr_find"):
            arguments += ["--data.path=names.txt", "--trainer.max_steps=10"]
        if "--trainer.devices" in command:
            arguments += ["--print_config"]  # several processes have tests of their own
        result = namemlp(*arguments)
        assert result.code == (2 if any(part in line for part in FAILS) else 0), (line, result.err)
