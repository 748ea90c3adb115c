"""Counting models against plain dictionaries, as a network, by the command and beside a run."""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from namemlp import NamesDataModule
from namemlp.corpus import read_names, shuffle_names, split_points
from namemlp.lists import NgramNetwork, evaluate_counting
from namemlp.windows import ContextDataset
from tests.helpers import SMALL, curves


def examples(names, n):
    """(context of n - 1 characters, next character) of each character and each end of a name."""
    for name in names:
        padded = "." * (n - 1) + name + "."
        for i in range(n - 1, len(padded)):
            yield padded[i - n + 1 : i], padded[i]


def count(names, n):
    counts = defaultdict(Counter)
    for context, following in examples(names, n):
        counts[context][following] += 1
    return counts


class Plain:
    """The three kinds of smoothing, by dictionaries, one probability at a time."""

    def __init__(self, train, n, V):
        self.V, self.n = V, n
        self.counts = {k: count(train, k) for k in range(1, n + 1)}
        self.lower = {}  # of Kneser-Ney: in how many contexts one character longer each n-gram stands
        for k in range(1, n):
            seen = defaultdict(Counter)
            for context, following in {pair for pair in examples(train, k + 1)}:
                seen[context[1:]][following] += 1
            self.lower[k] = seen

    def additive(self, context, following, a):
        counts = self.counts[self.n].get(context, {})
        return (counts.get(following, 0) + a) / (sum(counts.values()) + a * self.V)

    def witten_bell(self, context, following):
        p = 1 / self.V
        for k in range(1, self.n + 1):
            counts = self.counts[k].get(context[len(context) - k + 1 :])
            if counts:
                p = (counts[following] + len(counts) * p) / (sum(counts.values()) + len(counts))
        return p

    def kneser_ney(self, context, following):
        p = 1 / self.V
        for k in range(1, self.n + 1):
            table = self.counts[k] if k == self.n else self.lower[k]
            values = [value for counts in table.values() for value in counts.values()]
            once, twice = values.count(1), values.count(2)
            discount = once / (once + 2 * twice) if once else 0.5
            counts = table.get(context[len(context) - k + 1 :])
            if counts:
                total = sum(counts.values())
                p = (max(counts[following] - discount, 0) + discount * len(counts) * p) / total
        return p


@pytest.fixture
def split_names():
    names = shuffle_names(read_names()[::40], 42, 1)
    val, test = split_points(len(names), (0.8, 0.1, 0.1))
    return names, (names[:val], names[val:test], names[test:])


def test_losses_are_those_of_plain_dictionaries(split_names, tmp_path):
    names, parts = split_names
    path = tmp_path / "list.txt"
    path.write_text("\n".join(names))
    data = NamesDataModule(str(path), shuffles=0)
    V = len(data.vocabulary)
    models = {(model.n, model.smoothing.split()[0]): model for model in evaluate_counting(data.splits, 4)}
    assert len(models) == 12
    for n in (1, 2, 4):
        plain = Plain(parts[0], n, V)
        constant = models[n, "add"].constant
        functions = {
            "add": lambda *pair, plain=plain, a=constant: plain.additive(*pair, a),
            "Witten-Bell": plain.witten_bell,
            "Kneser-Ney": plain.kneser_ney,
        }
        for smoothing, probability in functions.items():
            expected = []
            for part in parts:
                pairs = [*examples(part, n)]
                expected.append(-sum(math.log(probability(*pair)) for pair in pairs) / len(pairs))
            assert models[n, smoothing].losses == pytest.approx(expected, rel=1e-9), (n, smoothing)
        losses = {
            a: -sum(math.log(plain.additive(*pair, a)) for pair in examples(parts[1], n))
            for a in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
        }
        assert constant == min(losses, key=losses.get)


def test_network_has_the_probabilities_of_the_counts():
    splits = NamesDataModule().splits
    for model in evaluate_counting(splits, 3):
        network = NgramNetwork(splits, model)
        x, y = ContextDataset(splits.ids[splits.val_start : splits.test_start], max(1, model.n - 1))[:]
        log_probabilities = network(x)
        assert F.nll_loss(log_probabilities, y).item() == pytest.approx(model.losses[1], rel=1e-9)
        torch.testing.assert_close(log_probabilities.exp().sum(1), torch.ones(len(x), dtype=torch.float64))


def test_baseline_of_the_bundled_list(namemlp):
    result = namemlp("baseline")
    assert (result.code, result.err) == (0, "")
    rows = re.findall(r"^ +(\d)  (\S+(?: \S+)?) +([\d.]+) +([\d.]+)$", result.out, re.M)
    val = {(int(n), smoothing): float(loss) for n, smoothing, _, loss in rows}
    assert len(val) == 18
    assert result.out.startswith("additive smoothing by the best for val of 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3\n")
    assert val[2, "add 0.1"] == pytest.approx(2.460, abs=0.003)
    assert val[4, "add 0.1"] == pytest.approx(2.105, abs=0.003)
    assert val[5, "Witten-Bell"] == pytest.approx(2.037, abs=0.003)
    assert result.out.splitlines()[-1] == "lowest val: 6-gram, Kneser-Ney  train 1.5630  val 1.9897  test 2.0009"


def test_baseline_samples(namemlp):
    first, again = (namemlp("baseline", "--sample=20", "--seed=1", "--max_n=3") for _ in range(2))
    assert first.code == 0
    assert len(first.out.splitlines()) == 20
    assert first.out == again.out
    assert "lowest val: 3-gram, Kneser-Ney" in first.err
    assert first.out != namemlp("baseline", "--sample=20", "--seed=2", "--max_n=3").out


def test_baseline_of_any_script_and_a_large_vocabulary(namemlp):
    names = [chr(0x4E00 + 7 * i % 20_000) + chr(0x4E00 + 11 * i % 20_000) for i in range(5_000)]
    Path("list.txt").write_text("\n".join(names), encoding="utf-8")
    result = namemlp("baseline", "--data.path=list.txt", "--max_n=2")
    assert result.code == 0
    assert "lowest val: " in result.out


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--max_n=0", "max_n is 0: it must be from 1 to 64"),
        ("--data.path=none.txt", "none.txt: no such file; data.path takes a list of names, one per line"),
        ("--sample=0", "num_names is 0: it must be at least 1"),
        ("--max_m=3", "unrecognized arguments: --max_m=3; did you mean --max_n?"),
    ],
)
def test_baseline_errors(namemlp, option, sentence):
    result = namemlp("baseline", "--max_n=2", option)
    assert result.code == 2
    assert result.err.splitlines()[-1] == f"namemlp: error: {sentence}"


def test_fit_shows_what_counting_gets(fit, namemlp):
    result = fit(20, "--trainer.val_check_interval=10")
    [line] = [line for line in result.out.splitlines() if line.startswith("counting (")]
    table = namemlp("baseline", "--data.path=names.txt").out
    n, train, val = re.fullmatch(r"counting \((\d)-gram\)  train ([\d.]+)  val ([\d.]+)  test [\d.]+", line).groups()
    assert re.search(rf"^ +{n}  add \S+ +{train} +{val}$", table, re.M)
    loss = float(next(line.split()[2] for line in result.out.splitlines() if line.startswith("val ")))
    assert f"counting is better: its val loss is {loss - float(val):.4f} lower" in result.out
    points = curves("lightning_logs/version_0")["val/counting_loss"]
    assert points == pytest.approx({1: float(val), 20: float(val)}, abs=1e-4)


def test_a_long_list_is_not_counted(namemlp):
    Path("names.txt").write_text("\n".join(f"{i:06d}" for i in range(150_000)))  # 1,050,000 examples
    result = namemlp("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=5", "--trainer.limit_val_batches=1")
    assert result.code == 0
    assert "counting left out, as the list is long: `namemlp baseline` shows it" in result.out
    assert "val/counting_loss" not in curves("lightning_logs/version_0")


def test_fit_without_baseline(namemlp):
    result = namemlp("fit", "--data.path=names.txt", *SMALL, "--trainer.max_steps=5", "--baseline=false")
    assert result.code == 0
    assert "counting" not in result.out
    assert "val/counting_loss" not in curves("lightning_logs/version_0")
