"""The compiled SGD steps are those that autograd and torch's SGD make."""

import copy
import math
import shutil
from pathlib import Path
from random import Random

import numba
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from namemlp import NameMLP, UserError
from namemlp.fast import kernel, sgd
from namemlp.fast.sgd import fused_sgd_steps
from tests.processes import Command

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def autograd_sgd_steps(network, x, y, lrs):
    """The same steps by autograd and torch.optim.SGD."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    losses = []
    for batch, targets, lr in zip(x, y, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(network(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def largest_difference(ours, theirs):
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max((a.detach() - b.detach()).abs().max().item() for a, b in pairs)


def random_batches(vocabulary_size, context_length, batch_size, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(vocabulary_size, (steps, batch_size, context_length), generator=generator)
    return x, torch.randint(vocabulary_size, (steps, batch_size), generator=generator)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_1000_steps_equal_autograd(dtype, seed):
    draw = Random(seed).randint
    # One example a batch is among them; with few characters they repeat within a context.
    size, context, dim, hidden = draw(2, 60), draw(1, 8), draw(1, 12), draw(1, 300)
    batch = 1 if seed == 0 else draw(2, 70)
    ours = NameMLP(size, context, dim, hidden, seed=seed).to(dtype)
    theirs = copy.deepcopy(ours)
    x, y = random_batches(size, context, batch, 1000, seed)
    lrs = [0.02 * 0.998**step for step in range(1000)]
    expected = autograd_sgd_steps(theirs, x, y, lrs)
    blocks = [slice(0, 1), slice(1, 8), slice(8, 500), slice(500, 1000)]
    losses = torch.cat([fused_sgd_steps(ours, x[block], y[block], lrs[block]) for block in blocks])
    assert largest_difference(ours, theirs) < TOLERANCE[dtype]
    torch.testing.assert_close(losses, expected.double(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_default_model_stays_much_closer():
    ours = NameMLP(27)
    theirs = copy.deepcopy(ours)
    x, y = random_batches(27, 3, 32, 1000, seed=1)
    autograd_sgd_steps(theirs, x, y, [0.01] * 1000)
    fused_sgd_steps(ours, x, y, [0.01] * 1000)
    assert largest_difference(ours, theirs) < 1e-5  # 3e-6 here


def test_block_size_changes_no_bit():
    whole, cut = NameMLP(27), NameMLP(27)
    x, y = random_batches(27, 3, 32, 20, seed=3)
    fused_sgd_steps(whole, x, y, [0.1] * 20)
    for k in range(20):
        fused_sgd_steps(cut, x[k : k + 1], y[k : k + 1], [0.1])
    assert largest_difference(whole, cut) == 0


def test_step_is_learning_rate_times_gradient():
    network = NameMLP(9, 4, 3, 10).double()
    before = copy.deepcopy(network)
    x, y = random_batches(9, 4, 5, 1, seed=2)
    F.cross_entropy(before(x[0]), y[0]).backward()
    fused_sgd_steps(network, x, y, [1.0])
    for after, start in zip(network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close((start - after).detach(), start.grad, rtol=0, atol=1e-14)


@numba.njit
def tanh(row):
    for i in range(len(row)):
        row[i] = kernel._tanh(row[i], row.itemsize)


@numba.njit
def exp(row):
    for i in range(len(row)):
        row[i] = kernel._exp(row[i], row.itemsize)


def test_tanh_and_exp_are_exact_to_float32_rounding():
    x = np.linspace(-12, 12, 1_000_003, dtype=np.float32)
    y = x.copy()
    tanh(y)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 4e-7
    tiny = np.float32([1e-30, -1e-10, 0])
    expected = tiny.copy()
    tanh(tiny)
    np.testing.assert_allclose(tiny, expected, rtol=1e-6)

    x = np.linspace(-120, 0, 1_000_003, dtype=np.float32)
    y = x.copy()
    exp(y)
    assert np.abs(y - np.exp(x.astype(np.float64))).max() < 6e-8


def test_divergence_shows_in_losses_and_weights():
    network = NameMLP(27)
    x, y = random_batches(27, 3, 32, 50, seed=4)
    assert not fused_sgd_steps(network, x, y, [1e30] * 50)[-1].isfinite()
    with torch.no_grad():
        network.hidden.bias[7] = math.nan
    assert fused_sgd_steps(network, x[:1], y[:1], [0.01]).isnan().all()
    assert network.embedding.weight.isnan().any()


@pytest.mark.parametrize("batch", [4, 5])
@pytest.mark.parametrize("weight, index", [("output.bias", 2), ("hidden.bias", 7)])
def test_infinite_bias_has_the_effect_it_has_with_autograd(weight, index, batch):
    ours = NameMLP(27)
    with torch.no_grad():
        ours.get_parameter(weight)[index] = -math.inf  # no second character ever, or a unit that is always -1
    theirs = copy.deepcopy(ours)
    x, y = random_batches(27, 3, batch, 3, seed=7)
    y[y == 2] = 3
    autograd_sgd_steps(theirs, x, y, [0.01] * 3)
    fused_sgd_steps(ours, x, y, [0.01] * 3)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


OUT_OF_RANGE = [-(2**62), -28, -27, -1, 27, 28, 1000, 2**62]  # Numba wraps a small negative index around


@pytest.mark.parametrize("invalid", OUT_OF_RANGE)
@pytest.mark.parametrize("place", [0, 11, -1])
def test_kernel_never_reads_or_writes_out_of_bounds(invalid, place):
    network, untrained = NameMLP(27), NameMLP(27)
    x, y = random_batches(27, 3, 4, 3, seed=5)
    for ids in (x, y):
        valid = ids.view(-1)[place].item()
        ids.view(-1)[place] = invalid
        with pytest.raises(IndexError, match="the data has characters beyond the model's vocabulary of 27"):
            fused_sgd_steps(network, x, y, [0.01] * 3)
        assert largest_difference(network, untrained) == 0
        ids.view(-1)[place] = valid
    fused_sgd_steps(network, x, y, [0.01] * 3)
    assert largest_difference(network, untrained) > 0


@pytest.mark.parametrize("context_length", [1, 2, 4, 50])
def test_contexts_of_another_length_are_refused(context_length):
    network = NameMLP(27)
    x, y = random_batches(27, context_length, 4, 2, seed=5)
    with pytest.raises(UserError, match=f"contexts of {context_length} characters but the model of 3: give both"):
        fused_sgd_steps(network, x, y, [0.01] * 2)
    assert largest_difference(network, NameMLP(27)) == 0


@pytest.fixture
def run_copy(tmp_path):
    """The folder of a copy of the kernel, and a function that runs it in its own process.

    That returns a digest of the trained weights and how often the kernel was loaded from the disk.
    """
    package = tmp_path / "namemlp"
    shutil.copytree(Path(sgd.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home/.cache")}
    code = (
        "import hashlib, logging, sys, torch; sys.dont_write_bytecode = True; logging.basicConfig(level='INFO');"
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('namemlp')];"
        "from namemlp import NameMLP; from namemlp.fast import kernel, sgd;"
        "from namemlp.fast.compilation import prepare;"
        "network = NameMLP(21, 3, 5, 20); prepare(network); generator = torch.Generator().manual_seed(0);"
        "x = torch.randint(21, (500, 32, 3), generator=generator);"
        "sgd.fused_sgd_steps(network, x, x[..., 0], [0.01] * 500);"
        "weights = b''.join(p.detach().numpy().tobytes() for p in network.parameters());"
        "hits = sum(kernel.sgd_steps.stats.cache_hits.values());"
        "print(kernel.__file__, hashlib.sha256(weights).hexdigest(), hits)"
    )

    (tmp_path / "run.py").write_text(code)

    def run():
        command = Command(script=tmp_path / "run.py", environment=environment)
        file, weights, hits = command.result().split()
        is_announced = "compiling the kernel, once on this machine: about 5 s" in command.err
        assert is_announced == (hits == "0"), command.err
        assert Path(file).parent == package / "fast"
        return weights, int(hits)

    return package / "fast", run


def test_kernel_works_without_a_writable_cache(tmp_path, run_copy):
    # As in a read-only install of a user without a home: files in the place of the folders that Numba would make.
    folder, run = run_copy
    (folder / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    assert run()[1] == 0


def test_kernel_is_cached_and_a_damaged_cache_is_rebuilt(run_copy):
    folder, run = run_copy
    weights, hits = run()
    assert hits == 0
    assert run() == (weights, 1)  # to the last bit
    for end in ("nbi", "nbc"):
        (damaged,) = folder.rglob(f"*.{end}")
        damaged.write_bytes(damaged.read_bytes()[:100])
    assert run() == (weights, 0)
