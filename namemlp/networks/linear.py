"""A linear layer over the one-hot context: at context 1 the lecture's neural bigram, softmax of a row of one matrix."""

from typing import Literal

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """The makemore lectures, part 1: logits are the sum of a row of a matrix for each character of the context.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        init: notebook: every weight N(0, 1); zeros: all characters equally likely
    """

    def __init__(
        self, vocabulary_size: int, context_length: int, init: Literal["notebook", "zeros"] = "notebook"
    ) -> None:
        super().__init__()
        self.register_buffer("offsets", vocabulary_size * torch.arange(context_length), persistent=False)
        self.weight = nn.Parameter(torch.randn(context_length * vocabulary_size, vocabulary_size))
        if init == "zeros":
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        return self.weight[x + self.offsets].sum(1)  # (B, T, V) -> (B, V) logits
