"""A causal Transformer at makemore's default size."""

from jsonargparse.typing import PositiveInt, restricted_number_type
from torch import Tensor, nn
from torch.nn import functional as F

Probability = restricted_number_type("Probability", float, [(">=", 0), ("<", 1)])


class Block(nn.Module):
    """Self-attention and two linear layers, each after a layer normalization and added to what came in."""

    def __init__(self, embedding_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(embedding_dim), nn.LayerNorm(embedding_dim)
        self.queries_keys_values = nn.Linear(embedding_dim, 3 * embedding_dim)
        self.projection = nn.Linear(embedding_dim, embedding_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embedding_dim, 4 * embedding_dim), nn.GELU("tanh"), nn.Linear(4 * embedding_dim, embedding_dim)
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C)
        B, T, C = x.shape
        parts = self.queries_keys_values(self.norm1(x)).view(B, T, 3, self.num_heads, C // self.num_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, C / heads) each
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.projection(attended.transpose(1, 2).reshape(B, T, C)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Vaswani et al. (2017), "Attention is all you need", as GPT-2: layer normalization first, causal, GELU.

    Args:
        vocabulary_size, context_length: V (with the end mark) and T
        embedding_dim: embedding dimension (C), a multiple of the heads
        num_heads: heads of the attention in a block
        num_layers: blocks
        dropout: probability that a number that a block adds is left out

    Raises: ValueError: C is no multiple of the heads.
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int,
        embedding_dim: PositiveInt = 64,
        num_heads: PositiveInt = 4,
        num_layers: PositiveInt = 4,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if embedding_dim % num_heads:
            raise ValueError(f"embedding_dim is {embedding_dim}: it must be a multiple of num_heads, {num_heads}")
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.places = nn.Embedding(context_length, embedding_dim)
        self.blocks = nn.Sequential(*(Block(embedding_dim, num_heads, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(embedding_dim)
        self.output = nn.Linear(embedding_dim, vocabulary_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        h = self.blocks(self.embedding(x) + self.places.weight)  # (B, T, C)
        return self.output(self.norm(h[:, -1]))  # (B, V) logits
