"""Several tanh layers, with batch normalization or without it: the lectures' part 3."""

from itertools import pairwise
from typing import Literal

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor, nn

from namemlp.networks.batch_norm import BatchNorm

GAIN = nn.init.calculate_gain("tanh")  # 5/3


class Deep(nn.Module):
    """An embedding, tanh layers of equal width, and a linear layer.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        embedding_dim: embedding dimension (C)
        hidden_size: units of a tanh layer (H)
        num_layers: tanh layers
        batch_norm: normalize what goes into each tanh, and the logits, over the batch (Ioffe and Szegedy, 2015)
        init: notebook: weights N(0, 1 / fan-in); scaled: times 5/3, the gain of tanh; small_output: and the logits
            times 0.1, so that the first loss is about log V
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int,
        embedding_dim: PositiveInt = 10,
        hidden_size: PositiveInt = 100,
        num_layers: PositiveInt = 5,
        batch_norm: bool = False,
        init: Literal["notebook", "scaled", "small_output"] = "small_output",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        widths = [context_length * embedding_dim, *[hidden_size] * num_layers, vocabulary_size]
        layers: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            is_last = i == num_layers
            linear = nn.Linear(inputs, outputs, bias=not batch_norm)
            gain = 1.0 if is_last or init == "notebook" else GAIN
            nn.init.normal_(linear.weight, std=gain / inputs**0.5)
            layers.append(linear)
            if batch_norm:
                layers.append(BatchNorm(outputs))
            elif linear.bias is not None:
                nn.init.zeros_(linear.bias)
            if is_last and init == "small_output":
                with torch.no_grad():
                    layers[-1].weight.mul_(0.1)
            if not is_last:
                layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        return self.layers(self.embedding(x).flatten(1))  # (B, T, C) -> (B, T * C) -> (B, V) logits
