"""A tree over the context that joins two neighbours at a time: the lectures' part 5, after WaveNet."""

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from namemlp.networks.batch_norm import BatchNorm


class WaveNet(nn.Module):
    """Van den Oord et al. (2016), "WaveNet", as in the makemore lectures: each layer halves the number of places.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T, a power of 2 of at least 2
        embedding_dim: embedding dimension (C)
        hidden_size: units of a layer (H)
        batch_norm: normalize what goes into each tanh, over the batch and all places

    Raises: ValueError: T is no such number.
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int,
        embedding_dim: PositiveInt = 24,
        hidden_size: PositiveInt = 128,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if context_length < 2 or context_length & (context_length - 1):
            raise ValueError(f"context_length is {context_length}: it must be a power of 2, such as 8")
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        nn.init.normal_(self.embedding.weight)
        num_layers = context_length.bit_length() - 1
        widths = [embedding_dim, *[hidden_size] * num_layers]
        self.linears = nn.ModuleList(nn.Linear(2 * width, hidden_size, bias=not batch_norm) for width in widths[:-1])
        self.norms = nn.ModuleList(BatchNorm(hidden_size) if batch_norm else nn.Identity() for _ in self.linears)
        self.tanh = nn.Tanh()
        self.output = nn.Linear(hidden_size, vocabulary_size)
        with torch.no_grad():
            self.output.weight.mul_(0.1)  # so that the first loss is about log V

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        h = self.embedding(x)  # (B, T, C)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            B, places, width = h.shape
            h = linear(h.view(B, places // 2, 2 * width))  # (B, places / 2, H)
            h = self.tanh(norm(h.flatten(0, 1)).view(h.shape))  # normalized over batch and places
        return self.output(h[:, 0])  # (B, 1, H) -> (B, V) logits
