"""The network of Bengio et al. (2003), section 2, without the direct connections: embedding -> tanh -> linear."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


class NameMLP(nn.Module):
    """Predict the next character from the last T characters.

    Args:
        vocabulary_size: V, number of characters with the end mark.
        context_length: T.
        embedding_dim: C.
        hidden_size: H.
        init: `notebook`: every tensor N(0, 1). `scaled`: He et al. (2015), weights N(0, gain² / fan-in) and biases 0,
            so that the untrained model is about as unsure as it should be (a loss of about log V) and tanh is not
            saturated.
        seed: of the one generator that all tensors are drawn from.
        dropout: share of the tanh units that are left out in training.
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int = 3,
        embedding_dim: int = 5,
        hidden_size: int = 200,
        init: Literal["notebook", "scaled"] = "notebook",
        seed: int = 2147483647,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.hidden = nn.Linear(context_length * embedding_dim, hidden_size)
        self.output = nn.Linear(hidden_size, vocabulary_size)
        self._start(init, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _start(self, init: str, generator: torch.Generator) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        # The notebook's order and shapes: C, W1, b1, W2, b2; a Linear keeps W transposed.
        self.embedding.weight.copy_(normal(*self.embedding.weight.shape))
        for linear in (self.hidden, self.output):
            linear.weight.copy_(normal(linear.in_features, linear.out_features).T)
            linear.bias.copy_(normal(linear.out_features))
        if init == "scaled":
            for linear, follows in ((self.hidden, "tanh"), (self.output, "linear")):
                linear.weight.mul_(nn.init.calculate_gain(follows) / linear.in_features**0.5)
                linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        embedded = self.embedding(x).flatten(1)  # (B, T, C) -> (B, T * C)
        hidden = torch.tanh(self.hidden(embedded))  # (B, H)
        if self.training and self.dropout:  # by rand, which is four times as quick on a CPU as what F.dropout draws by
            kept = torch.rand(hidden.shape, device=hidden.device) >= self.dropout
            hidden = hidden * (kept / (1 - self.dropout)).to(hidden.dtype)
        return self.output(hidden)  # (B, V) logits


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Look at a module without dropout and gradients; afterwards it is in training or not, as before."""
    training = [each.training for each in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for each, was_training in zip(module.modules(), training, strict=True):
            each.training = was_training
