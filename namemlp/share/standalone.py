"""Load and sample this model with torch and safetensors alone: python model.py [NUMBER] [SEED]"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class NameMLP(nn.Module):
    """Embed the last T characters, one tanh layer, predict the next."""

    def __init__(self, vocabulary_size: int, context_length: int, embedding_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.hidden = nn.Linear(context_length * embedding_dim, hidden_size)
        self.output = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids -> (B, V) logits
        return self.output(torch.tanh(self.hidden(self.embedding(x).flatten(1))))


def load(folder: Path) -> tuple[NameMLP, dict]:
    """The network of a folder, and its config: "vocabulary" has the character of each id, 0 is a name's end."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = [config[name] for name in ("context_length", "embedding_dim", "hidden_size")]
    network = NameMLP(len(config["vocabulary"]), *sizes)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval(), config


@torch.inference_mode()
def sample(network: NameMLP, config: dict, count: int, seed: int, max_length: int = 100) -> list[str]:
    """New names, one character at a time."""
    generator, names = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        context, name = [0] * config["context_length"], ""
        while len(name) < max_length:
            logits = network(torch.tensor([context]))[0]  # (V,)
            if not name:
                logits[0] = -torch.inf  # a name has at least one character
            i = torch.multinomial(logits.softmax(0), 1, generator=generator).item()
            if i == 0:
                break
            name += config["vocabulary"][i]
            context = [*context[1:], i]
        names.append(name)
    return names


if __name__ == "__main__":
    count, seed = (int(value) for value in (*sys.argv[1:], *("20", "1")[len(sys.argv) - 1 :]))
    print("\n".join(sample(*load(Path(__file__).parent), count, seed)))
