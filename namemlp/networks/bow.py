"""A bag of words: the mean of what is known of each character, whatever their order but for their place."""

from jsonargparse.typing import PositiveInt
from torch import Tensor, nn


class BagOfWords(nn.Module):
    """makemore's "bow": the mean of characters and places, through a small network as in a block of a Transformer.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        embedding_dim: embedding dimension (C)
        hidden_size: tanh units of the small network (H)
    """

    def __init__(
        self, vocabulary_size: int, context_length: int, embedding_dim: PositiveInt = 64, hidden_size: PositiveInt = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.places = nn.Embedding(context_length, embedding_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embedding_dim, hidden_size), nn.Tanh(), nn.Linear(hidden_size, embedding_dim)
        )
        self.output = nn.Linear(embedding_dim, vocabulary_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        h = self.embedding(x) + self.places.weight  # (B, T, C)
        h = h[:, -1] + h.mean(1)  # (B, C): the last place sees all of them
        return self.output(h + self.mlp(h))  # (B, V) logits
