"""Gradients in closed form are those of autograd, and which units are left out depends on seed, step and process."""

import copy
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from namemlp import NameMLP, UserError
from namemlp.fast.closed_form import ClosedForm, use_fused_step

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


def batch(network, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(network.output.out_features, (size, network.context_length + 1), generator=generator)
    return x[:, :-1], x[:, -1]  # strided, as `ContextDataset` gives them


def gradients(network):
    return [p.grad for p in network.parameters()]


def masked_loss(network, x, y, mask):
    """The loss by autograd, of units times a mask."""
    hidden = torch.tanh(network.hidden(network.embedding(x).flatten(1))) * mask
    return F.cross_entropy(network.output(hidden), y)


def assert_equal(ours, theirs, rtol):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * b.abs().max().item())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_loss_and_gradients_are_those_of_autograd(dtype, seed):
    draw = Random(seed).randint
    size = 1 if seed == 0 else draw(2, 300)
    ours = NameMLP(draw(2, 60), draw(1, 8), draw(1, 12), draw(1, 300), init="scaled", seed=seed).to(dtype)
    theirs = copy.deepcopy(ours)
    x, y = batch(ours, size, seed)
    expected = F.cross_entropy(theirs(x), y)
    expected.backward()
    closed_form = ClosedForm(ours, 1, 0, 0)
    loss = closed_form.backward(x, y)
    torch.testing.assert_close(loss, expected.detach(), rtol=TOLERANCE[dtype], atol=0)
    assert_equal(gradients(ours), gradients(theirs), TOLERANCE[dtype])

    direct = [gradient.clone() for gradient in gradients(ours)]
    ours.zero_grad()
    (2 * closed_form(x, y)).backward()  # by autograd, to which it is one function
    assert all(torch.equal(a, 2 * b) for a, b in zip(gradients(ours), direct, strict=True))


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.93])
def test_gradients_under_dropout_are_those_of_autograd_with_the_same_mask(dropout):
    ours = NameMLP(27, 4, 6, 301, init="scaled", dropout=dropout).double()
    theirs = copy.deepcopy(ours)
    x, y = batch(ours, 50)
    closed_form = ClosedForm(ours, seed=7, step=3, process=0)
    for step in (3, 4):
        bits = np.random.SFC64((7, step, 0)).random_raw(50 * 301 // 4 + 1).view(np.uint16)[: 50 * 301]
        mask = torch.from_numpy(bits.astype(np.int64)).view(50, 301) >= round(dropout * 2**16)
        assert mask.double().mean().item() == pytest.approx(1 - dropout, abs=0.02)
        theirs.zero_grad()
        masked_loss(theirs, x, y, mask.double() / (1 - round(dropout * 2**16) / 2**16)).backward()
        closed_form.backward(x, y)
        assert_equal(gradients(ours), gradients(theirs), 1e-12)


def test_masks_depend_on_seed_step_and_process_alone():
    network = NameMLP(27, dropout=0.5)
    x, y = batch(network, 32)

    def loss(*where):
        return ClosedForm(network, *where).backward(x, y).item()

    whole = ClosedForm(network, 1, 0, 0)
    losses = [whole.backward(x, y).item() for _ in range(5)]
    torch.manual_seed(5)
    assert losses == [loss(1, step, 0) for step in range(5)]
    assert len({*losses, loss(2, 0, 0), loss(1, 0, 1)}) == 7


@pytest.mark.parametrize("optimizer, tolerance", [("SGD", 1e-6), ("Adam", 1e-4), ("AdamW", 1e-4)])
def test_1000_steps_stay_near_those_of_autograd(optimizer, tolerance):
    settings = dict(momentum=0.9, nesterov=True, weight_decay=0.01) if optimizer == "SGD" else {}
    ours = NameMLP(27, init="scaled")
    theirs = copy.deepcopy(ours)
    ours_step, theirs_step = (
        getattr(torch.optim, optimizer)(network.parameters(), lr=0.002, **settings) for network in (ours, theirs)
    )
    use_fused_step(ours_step)
    closed_form = ClosedForm(ours, 1, 0, 0)
    for step in range(1000):
        x, y = batch(ours, 32, step)
        closed_form.backward(x, y)
        ours_step.step()
        theirs_step.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        theirs_step.step()
    largest = max((a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert largest < tolerance


def test_what_is_not_trained_has_no_gradient():
    network = NameMLP(27)
    network.embedding.requires_grad_(False)
    ClosedForm(network, 1, 0, 0).backward(*batch(network, 5))
    assert network.embedding.weight.grad is None and network.hidden.weight.grad is not None


@pytest.mark.parametrize("invalid", [-100, -27, -1, 27, 1000])
def test_ids_beyond_the_vocabulary_are_an_error(invalid):
    network = NameMLP(27)
    x, y = (part.clone() for part in batch(network, 5))
    for part in (x, y):
        valid, part.view(-1)[3] = part.view(-1)[3].item(), invalid
        with pytest.raises(IndexError):
            ClosedForm(network, 1, 0, 0).backward(x, y)
        part.view(-1)[3] = valid
    with pytest.raises(UserError, match="the data has contexts of 2 characters but the model of 3"):
        ClosedForm(network, 1, 0, 0).backward(x[:, :2], y)


def test_optimizers_step_in_one_call_unless_they_were_told_otherwise():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    for optimizer in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        for settings, expected in (({}, True), (dict(fused=False), False), (dict(foreach=True), None)):
            built = optimizer(parameters, lr=0.1, **settings)
            use_fused_step(built)
            assert built.param_groups[0]["fused"] is expected
    use_fused_step(built := torch.optim.NAdam(parameters))
    assert not built.param_groups[0].get("fused")
