import math

import pytest
import torch

from namemlp import NameMLP
from namemlp.network import eval_mode


def test_parameters_and_shapes():
    network = NameMLP(27)
    assert sum(p.numel() for p in network.parameters()) == 8762
    assert network(torch.zeros(4, 3, dtype=torch.long)).shape == (4, 27)
    network = NameMLP(40, context_length=8, embedding_dim=24, hidden_size=100)
    assert network.hidden.weight.shape == (100, 192)
    assert network(torch.zeros(4, 8, dtype=torch.long)).shape == (4, 40)


def test_initial_weights_are_those_of_the_notebook():
    g = torch.Generator().manual_seed(2147483647)
    C = torch.randn((27, 5), generator=g)
    W1 = torch.randn((15, 200), generator=g)
    b1 = torch.randn(200, generator=g)
    W2 = torch.randn((200, 27), generator=g)
    b2 = torch.randn(27, generator=g)
    network = NameMLP(27)
    assert torch.equal(network.embedding.weight, C)
    assert torch.equal(network.hidden.weight, W1.T)
    assert torch.equal(network.hidden.bias, b1)
    assert torch.equal(network.output.weight, W2.T)
    assert torch.equal(network.output.bias, b2)

    x = torch.randint(27, (6, 3), generator=g)
    logits = torch.tanh(C[x].view(-1, 15) @ W1 + b1) @ W2 + b2
    torch.testing.assert_close(network(x), logits)


def test_initial_weights_depend_on_the_seed():
    assert torch.equal(NameMLP(27, seed=1).output.weight, NameMLP(27, seed=1).output.weight)
    assert not torch.equal(NameMLP(27, seed=1).output.weight, NameMLP(27, seed=2).output.weight)


@pytest.mark.parametrize("context_length", [3, 8])
def test_scaled_initial_weights(context_length):
    network = NameMLP(27, context_length, embedding_dim=10, hidden_size=500, init="scaled")
    assert network.hidden.weight.std().item() == pytest.approx(5 / 3 / math.sqrt(context_length * 10), rel=0.05)
    assert network.output.weight.std().item() == pytest.approx(1 / math.sqrt(500), rel=0.05)
    assert not network.hidden.bias.any()
    assert not network.output.bias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_is_active_in_training_only(dtype):
    network = NameMLP(27, hidden_size=1000, dropout=0.4).to(dtype)
    with torch.no_grad():
        network.hidden.weight.zero_()
        network.hidden.bias.fill_(10)  # every unit is 1
        network.output.weight.fill_(1 / 1000)
        network.output.bias.zero_()
    x = torch.zeros(200, 3, dtype=torch.long)
    torch.manual_seed(1)
    logits = network(x)[:, 0].double()  # the fraction of active units, over 0.6
    assert logits.mean().item() == pytest.approx(1, abs=0.01)
    assert logits.std().item() == pytest.approx(math.sqrt(0.4 / 0.6 / 1000), rel=0.2)
    assert network(x).dtype == dtype
    with eval_mode(network):
        assert (network(x) - 1).abs().max() < 0.02
    assert network.training and network(x).std() > 0.01
    assert torch.equal(NameMLP(27)(x), NameMLP(27).eval()(x))
