"""The compiled updates are those that autograd and torch's SGD make."""

import copy
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import numba
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from namemlp import NameMLP, fused, kernel
from namemlp.graph import GraphUpdates

WITHIN = {torch.float32: 1e-4, torch.float64: 1e-10}


def textbook(network, x, y, rates):
    """The same updates by autograd and torch.optim.SGD, one by one."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    losses = []
    for batch, targets, rate in zip(x, y, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(network(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def largest_difference(ours, theirs):
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max((a.detach() - b.detach()).abs().max().item() for a, b in pairs)


def examples(vocabulary_size, context_length, batch_size, updates, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(vocabulary_size, (updates, batch_size, context_length), generator=generator)
    return x, torch.randint(vocabulary_size, (updates, batch_size), generator=generator)


@pytest.mark.parametrize("dtype", WITHIN, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_1000_updates_are_those_of_autograd(dtype, seed):
    draw = Random(seed).randint
    # One example a batch is among them; with few characters they repeat within a context.
    size, context, dim, hidden = draw(2, 60), draw(1, 8), draw(1, 12), draw(1, 300)
    batch = 1 if seed == 0 else draw(2, 70)
    ours = NameMLP(size, context, dim, hidden, seed=seed).to(dtype)
    theirs = copy.deepcopy(ours)
    x, y = examples(size, context, batch, 1000, seed)
    rates = [0.02 * 0.998**step for step in range(1000)]
    expected = textbook(theirs, x, y, rates)
    blocks = [slice(0, 1), slice(1, 8), slice(8, 500), slice(500, 1000)]
    losses = torch.cat([fused.make_updates(ours, x[block], y[block], rates[block]) for block in blocks])
    assert largest_difference(ours, theirs) < WITHIN[dtype]
    torch.testing.assert_close(losses, expected.double(), rtol=WITHIN[dtype], atol=WITHIN[dtype])


def test_the_default_model_stays_much_closer():
    ours = NameMLP(27)
    theirs = copy.deepcopy(ours)
    x, y = examples(27, 3, 32, 1000, seed=1)
    textbook(theirs, x, y, [0.01] * 1000)
    fused.make_updates(ours, x, y, [0.01] * 1000)
    assert largest_difference(ours, theirs) < 1e-5  # 3e-6 here


def test_where_blocks_end_makes_no_difference():
    whole, cut = NameMLP(27), NameMLP(27)
    x, y = examples(27, 3, 32, 20, seed=3)
    fused.make_updates(whole, x, y, [0.1] * 20)
    for k in range(20):
        fused.make_updates(cut, x[k : k + 1], y[k : k + 1], [0.1])
    assert largest_difference(whole, cut) == 0


def test_an_update_is_the_learning_rate_times_the_gradient():
    network = NameMLP(9, 4, 3, 10).double()
    before = copy.deepcopy(network)
    x, y = examples(9, 4, 5, 1, seed=2)
    F.cross_entropy(before(x[0]), y[0]).backward()
    fused.make_updates(network, x, y, [1.0])
    for after, start in zip(network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close((start - after).detach(), start.grad, rtol=0, atol=1e-14)


@numba.njit
def tanh(matrix):
    kernel._tanh(matrix)


@numba.njit
def exp(row):
    kernel._exp(row)


def test_tanh_and_exp_are_good_to_float32_rounding():
    x = np.linspace(-12, 12, 1_000_003, dtype=np.float32)
    y = x[None].copy()
    tanh(y)
    assert np.abs(y[0] - np.tanh(x.astype(np.float64))).max() < 4e-7
    tiny = np.float32([[1e-30, -1e-10, 0]])
    expected = tiny.copy()
    tanh(tiny)
    np.testing.assert_allclose(tiny, expected, rtol=1e-6)

    x = np.linspace(-120, 0, 1_000_003, dtype=np.float32)
    y = x.copy()
    exp(y)
    assert np.abs(y - np.exp(x.astype(np.float64))).max() < 6e-8


def test_a_run_that_diverges_shows_it():
    network = NameMLP(27)
    x, y = examples(27, 3, 32, 50, seed=4)
    assert not fused.make_updates(network, x, y, [1e30] * 50)[-1].isfinite()
    with torch.no_grad():
        network.hidden.bias[7] = math.nan
    assert fused.make_updates(network, x[:1], y[:1], [0.01]).isnan().all()
    assert network.embedding.weight.isnan().any()


@pytest.mark.parametrize("batch", [4, 5])
@pytest.mark.parametrize("weight, place", [("output.bias", 2), ("hidden.bias", 7)])
def test_an_infinite_bias_spoils_no_more_than_by_autograd(weight, place, batch):
    ours = NameMLP(27)
    with torch.no_grad():
        ours.get_parameter(weight)[place] = -math.inf  # no second character ever, or a unit that is always -1
    theirs = copy.deepcopy(ours)
    x, y = examples(27, 3, batch, 3, seed=7)
    y[y == 2] = 3
    textbook(theirs, x, y, [0.01] * 3)
    fused.make_updates(ours, x, y, [0.01] * 3)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [-1, 27])
def test_an_id_that_is_not_in_the_vocabulary_is_refused(wrong):
    x, y = examples(27, 3, 4, 2, seed=5)
    for ids in (x, y):
        kept = ids.view(-1)[3].item()
        ids.view(-1)[3] = wrong
        with pytest.raises(IndexError, match="not in the model's vocabulary"):
            fused.make_updates(NameMLP(27), x, y, [0.01] * 2)
        ids.view(-1)[3] = kept


@pytest.fixture
def run_copy(tmp_path):
    """Run a copy of the kernel in a process of its own; its folder and a function that does."""
    package = tmp_path / "namemlp"
    package.mkdir()
    for name in ("__init__.py", "fused.py", "kernel.py", "network.py"):
        shutil.copy(Path(fused.__file__).with_name(name), package)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    code = (
        "import hashlib, torch; from namemlp import NameMLP, fused; network = NameMLP(21, 3, 5, 20);"
        "fused.prepare(network); generator = torch.Generator().manual_seed(0);"
        "x = torch.randint(21, (500, 32, 3), generator=generator);"
        "fused.make_updates(network, x, x[..., 0], [0.01] * 500);"
        "weights = b''.join(p.detach().numpy().tobytes() for p in network.parameters());"
        "print(fused.__file__, hashlib.sha256(weights).hexdigest(), sum(fused.updates.stats.cache_hits.values()))"
    )

    def run():
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        file, weights, hits = done.stdout.split()
        assert Path(file).parent == package
        return weights, int(hits)

    return package, run


def test_it_works_where_nothing_can_be_kept_on_disk(tmp_path, run_copy):
    # As in a read-only install of a user without a home: files in the place of the folders that Numba would make.
    package, run = run_copy
    (package / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    assert run()[1] == 0


def test_it_is_compiled_once_and_again_where_that_was_damaged(run_copy):
    package, run = run_copy
    weights, hits = run()
    assert hits == 0
    assert run() == (weights, 1)  # to the last bit
    for end in ("nbi", "nbc"):
        (damaged,) = package.rglob(f"*.{end}")
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert run() == (weights, 0)


class Uncaptured(GraphUpdates):
    """The updates of a CUDA graph, made one after the other."""

    def _capture(self, count):
        return partial(self._updates, count)


@pytest.mark.parametrize(
    "maker, device",
    [
        (Uncaptured, "cpu"),
        pytest.param(
            GraphUpdates, "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
        ),
    ],
)
@pytest.mark.parametrize("dtype", WITHIN, ids=str)
def test_graph_updates_are_those_of_autograd(maker, device, dtype):
    ours = NameMLP(27).to(device, dtype)
    theirs = copy.deepcopy(ours)
    x, y = (ids.to(device) for ids in examples(27, 3, 32, 90, seed=6))
    rates = [0.1 / (1 + step) for step in range(90)]
    make_updates = maker(ours, 32, 50)
    assert largest_difference(ours, theirs) == 0  # not touched by warming up
    blocks = [slice(0, 50), slice(50, 57), slice(57, 58), slice(58, 89)]
    parts = [(x[block], y[block], rates[block]) for block in blocks]
    parts.append((x[89:, :5], y[89:, :5], rates[89:]))  # a smaller last batch
    losses = torch.cat([make_updates(*part) for part in parts])
    expected = torch.cat([textbook(theirs, *part) for part in parts])
    assert largest_difference(ours, theirs) < WITHIN[dtype]
    torch.testing.assert_close(losses, expected, rtol=WITHIN[dtype], atol=WITHIN[dtype])
