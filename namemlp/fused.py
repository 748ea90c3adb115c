"""Many SGD updates of a `NameMLP` in one call, without autograd and without a Python step between them."""

import torch
from torch import Tensor

from namemlp.kernel import updates
from namemlp.network import NameMLP


def prepare(network: NameMLP) -> None:
    """Compile what `make_updates` needs for a network, or load it from disk."""
    nothing = torch.zeros(0, 1, 1, dtype=torch.int64)
    try:
        make_updates(network, nothing, nothing[..., 0], [])
    except Exception:  # a damaged file fails in many ways
        updates._cache.flush()
        make_updates(network, nothing, nothing[..., 0], [])


@torch.no_grad()
def make_updates(network: NameMLP, x: Tensor, y: Tensor, rates: list[float]) -> Tensor:
    """Make K updates in place, each with its own mini-batch and learning rate.

    Args:
        network: float32 or float64, on the CPU.
        x: (K, B, T) contexts.
        y: (K, B) next characters.
        rates: K learning rates.

    Returns:
        The K losses before each update, (K,) float64.

    Raises:
        IndexError: an id is not in the vocabulary.
    """
    hidden, output = network.hidden, network.output
    embedding = network.embedding.weight.detach().clone(memory_format=torch.contiguous_format)  # (V, C)
    size, inputs, units, batch = len(embedding), hidden.in_features, hidden.out_features, x.shape[1]
    if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= size):
        raise IndexError("index out of range: a character is not in the model's vocabulary")

    # Rows run along the hidden units, aligned to 64 bytes, in numbers that the tiles of the products divide.
    def padded(rows: int, columns: int) -> Tensor:
        return embedding.new_zeros(-(-rows // 4) * 4, -(-columns // 16) * 16)

    # A bias is one more row (of the hidden layer) or column (of the output layer), for an input that is always 1.
    hidden_layer = padded(inputs + 1, units + 1)  # (T * C + 1, H + 1)
    output_layer = padded(size, units + 1)  # (V, H + 1)
    copies = {
        network.embedding.weight: embedding,
        hidden.weight: hidden_layer[:inputs, :units].T,
        hidden.bias: hidden_layer[inputs, :units],
        output.weight: output_layer[:size, :units],
        output.bias: output_layer[:size, units],
    }
    for weight, copy in copies.items():
        copy.copy_(weight)
    e = padded(batch, inputs + 1)  # (B, T * C + 1)
    e[:batch, inputs] = 1
    h = padded(batch, units + 1)  # (B, H + 1)
    logits = padded(batch, size)  # (B, V)
    losses = torch.empty(len(x), dtype=torch.float64)
    changes = [torch.empty_like(each) for each in (e, h, embedding, hidden_layer, output_layer)]
    arrays = (embedding, hidden_layer, output_layer, x, y, embedding.new_tensor(rates), losses, e, h, logits, *changes)
    updates(units, *(array.contiguous().numpy() for array in arrays))
    for weight, copy in copies.items():
        weight.copy_(copy)
    return losses
