"""The page of a model: its own JavaScript in a headless browser, from a file, against the network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import namemlp as package
from tests.helpers import SMALL_LIST

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="there is no chromium; install Debian's package of that name"
)
HOSTILE = ["</script><script>window.hacked=1</script>", "a\u2028b\u2029c", "<!--", "&lt;'\"\\", "\U0001f600ab", "שלום"]


@pytest.fixture
def export(fit, namemlp):
    def run(*args, names=None, steps=20):
        data = []
        if names is not None:
            Path("own.txt").write_text("\n".join(names), encoding="utf-8")
            data = ["--data.path=own.txt"]
        fit(steps, "--model.init=scaled", *data, *args)
        result = namemlp("export", "--ckpt_path=last", "--output=page.html")
        assert (result.code, result.err) == (0, "")
        assert result.out == "page.html\n"
        return Path("page.html").read_text(encoding="utf-8"), package.load("last")

    return run


def in_browser(page, expression):
    """What an expression of JavaScript gives in a page that is opened from a file."""
    script = f"<pre id=result></pre><script>result.textContent = JSON.stringify({expression})</script></body>"
    Path("opened.html").write_text(page.replace("</body>", script), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run(
        [*command, Path("opened.html").absolute().as_uri()], capture_output=True, text=True, timeout=60
    )
    return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)[1])), done.stdout


@needs_browser
def test_log_probabilities_and_samples(export):
    page, model = export()
    names = sorted(set(SMALL_LIST))
    (log_probs, first, again, other, likeliest), shown = in_browser(
        page,
        f"[{json.dumps(names)}.map((name) => logProbs(name).reduce((a, b) => a + b)), sample(50, 'an', 1, 0, 7), "
        "sample(50, 'an', 1, 0, 7), sample(50, 'an', 1, 0, 8), sample(5, '', 1, 1, 1)]",
    )
    assert log_probs == pytest.approx(model.log_prob(names).tolist(), abs=1e-4)
    assert first == again
    assert first != other
    assert len(first) == 50
    assert all(name.startswith("an") for name in first)
    assert len(set(likeliest)) == 1
    assert len(re.findall(r"<li [^>]*>[^<]+</li>", shown)) == 20  # drawn when it is opened
    assert "<td>64 names</td>" not in shown
    assert "<td>80 names</td>" in shown


@needs_browser
def test_known_names_are_left_out_where_the_page_has_their_hashes(export, namemlp):
    page, _ = export("--optimizer.lr=0.3", steps=400)
    assert 'known_names":' not in page
    namemlp("export", "--ckpt_path=last", "--with_known_names")
    page = Path("names.html").read_text(encoding="utf-8")
    expression = f"[{json.dumps([*SMALL_LIST[:10], 'nobody'])}.map(isKnown), sample(200, '', 1, 0, 1), "
    (is_known, names, novel), _ = in_browser(page, expression + "sample(200, '', 1, 0, 1, true)]")
    assert is_known == [*[True] * 10, False]
    assert set(names) & set(SMALL_LIST)
    assert not set(novel) & set(SMALL_LIST)
    hopeless = page.replace('value="1"', 'value="0.05"')  # the temperature
    _, shown = in_browser(hopeless, "1")
    assert re.search('id="draw_error"[^>]*>Only \\d+ such names came<', shown)


@needs_browser
def test_frequencies_are_those_of_the_network(export):
    page, model = export()
    names, _ = in_browser(page, "sample(4000, '', 1.5, 0, 3)")
    theirs = model.sample(4000, temperature=1.5, seed=3)
    for text in ("a", "e"):
        ours, expected = (sum(name.startswith(text) for name in drawn) / 4000 for drawn in (names, theirs))
        assert ours == pytest.approx(expected, abs=0.03)
    assert sum(map(len, names)) / 4000 == pytest.approx(sum(map(len, theirs)) / 4000, rel=0.1)


@needs_browser
def test_large_models_have_float16(export):
    page, model = export("--model.hidden_size=8000", steps=2)
    assert '"dtype":"float16"' in page
    names = sorted(set(SMALL_LIST))
    log_probs, _ = in_browser(page, f"{json.dumps(names)}.map((name) => logProbs(name).reduce((a, b) => a + b))")
    assert log_probs == pytest.approx(model.log_prob(names).tolist(), abs=1e-2)


@needs_browser
def test_a_hostile_list_runs_nothing(export):
    page, model = export(names=HOSTILE * 5)
    expression = "[window.hacked ?? 0, model.characters, sample(3, '\U0001f600', 1, 0, 1), logProbs('<!--').length]"
    (hacked, characters, names, length), _ = in_browser(page, expression)
    assert (hacked, length) == (0, 5)
    assert characters == model.vocabulary.characters[1:]
    assert all(name.startswith("\U0001f600") for name in names)


def test_a_page_asks_nothing_of_the_network_and_holds_no_list(export):
    page, _ = export()
    assert "default-src 'none'" in page
    assert not re.search(r"\bsrc=|\bhref=|fetch\(|XMLHttpRequest|import |innerHTML|url\(", page)
    assert set(re.findall(r"https?://[^\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert page.isascii() or "␣" in page
    assert "has read ${model.list}" in page
    assert '"list":"the names of names.txt"' in page  # and no folder
    assert not [name for name in set(SMALL_LIST) if len(name) > 3 and name in page]


def test_export_without_the_list_and_errors(fit, namemlp):
    fit(5)
    Path("names.txt").rename("moved.txt")
    assert namemlp("export", "--ckpt_path=last").out == "names.html\n"
    assert "validation loss" not in Path("names.html").read_text(encoding="utf-8")
    namemlp("export", "--ckpt_path=last", "--data.path=moved.txt")
    assert "validation loss" in Path("names.html").read_text(encoding="utf-8")
    Path("folder").mkdir()
    for args, sentence in {
        ("--output=folder",): "folder cannot be written (Is a directory): give another --output",
        ("--to=onxx",): "invalid value onxx for to (see --help); did you mean onnx?",
        ("--data.path=none.txt",): "none.txt: no such file; data.path takes a list of names, one per line: give the "
        "list that lightning_logs/version_0/checkpoints/last.ckpt was trained on as --data.path",
    }.items():
        result = namemlp("export", "--ckpt_path=last", *args)
        assert (result.code, result.out, result.err) == (2, "", f"namemlp: error: {sentence}\n")
