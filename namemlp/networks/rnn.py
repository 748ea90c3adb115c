"""A recurrent network that reads the context character by character."""

from jsonargparse.typing import PositiveInt
from torch import Tensor, nn


class RNN(nn.Module):
    """Mikolov et al. (2010), "Recurrent neural network based language model", at makemore's default sizes.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        embedding_dim: embedding dimension (C)
        hidden_size: units of the state (H)
    """

    kind = nn.RNN  # h = tanh(W x + U h + b)

    def __init__(
        self, vocabulary_size: int, context_length: int, embedding_dim: PositiveInt = 64, hidden_size: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.recurrent = self.kind(embedding_dim, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        states, _ = self.recurrent(self.embedding(x))  # (B, T, C) -> (B, T, H)
        return self.output(states[:, -1])  # (B, V) logits


class GRU(RNN):
    """Cho et al. (2014), "Learning phrase representations": a recurrent network whose gates keep or replace the state.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        embedding_dim: embedding dimension (C)
        hidden_size: units of the state (H)
    """

    kind = nn.GRU
