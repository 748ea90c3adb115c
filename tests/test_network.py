import math

import pytest
import torch

from namemlp import NameMLP


def test_parameters_and_shapes():
    network = NameMLP(27)
    assert sum(p.numel() for p in network.parameters()) == 8762
    assert network(torch.zeros(4, 3, dtype=torch.long)).shape == (4, 27)
    network = NameMLP(40, context_length=8, embedding_dim=24, hidden_size=100)
    assert network.hidden.weight.shape == (100, 192)
    assert network(torch.zeros(4, 8, dtype=torch.long)).shape == (4, 40)


def test_starts_with_the_notebooks_numbers():
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


def test_the_seed_decides_the_start():
    assert torch.equal(NameMLP(27, seed=1).output.weight, NameMLP(27, seed=1).output.weight)
    assert not torch.equal(NameMLP(27, seed=1).output.weight, NameMLP(27, seed=2).output.weight)


@pytest.mark.parametrize("context_length", [3, 8])
def test_scaled_start(context_length):
    network = NameMLP(27, context_length, embedding_dim=10, hidden_size=500, init="scaled")
    assert network.hidden.weight.std().item() == pytest.approx(5 / 3 / math.sqrt(context_length * 10), rel=0.05)
    assert network.output.weight.std().item() == pytest.approx(1 / math.sqrt(500), rel=0.05)
    assert not network.hidden.bias.any()
    assert not network.output.bias.any()
