"""The network of Bengio et al. (2003), section 2, without the direct connections: embedding -> tanh -> linear."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

import namemlp
from namemlp.errors import UserError, shorten

Settings = str | dict[str, Any]  # a class name, or {class_path, init_args}; a network's: also {name, its settings}


class NameMLP(nn.Module):
    """Predict the next character from the last T characters.

    Args:
        vocabulary_size, context_length, embedding_dim, hidden_size: V (with the end mark), T, C and H.
        init: `notebook`: every tensor N(0, 1). `small_output`: logits a hundredth of that, a first loss of about log V.
            `scaled`: He et al. (2015), N(0, gain² / fan-in), biases 0: nor are tanh units saturated. `zeros`: all 0.
        seed: of the one generator that all tensors are drawn from.
        dropout: probability that a tanh unit is left out of a training step.
    """

    def __init__(
        self,
        vocabulary_size: int,
        context_length: int = 3,
        embedding_dim: int = 5,
        hidden_size: int = 200,
        init: Literal["notebook", "small_output", "scaled", "zeros"] = "notebook",
        seed: int = 2147483647,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context_length, self.dropout = context_length, dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.hidden = nn.Linear(context_length * embedding_dim, hidden_size)
        self.output = nn.Linear(hidden_size, vocabulary_size)
        self.reset_parameters(init, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def reset_parameters(self, init: str, generator: torch.Generator) -> None:
        # The notebook's order and shapes: C, W1, b1, W2, b2; a Linear keeps W transposed.
        self.embedding.weight.copy_(torch.randn(self.embedding.weight.shape, generator=generator))
        for linear in (self.hidden, self.output):
            linear.weight.copy_(torch.randn(linear.in_features, linear.out_features, generator=generator).T)
            linear.bias.copy_(torch.randn(linear.out_features, generator=generator))
        if init == "zeros":
            for p in self.parameters():
                p.zero_()
        elif init == "small_output":
            self.output.weight.mul_(0.01)
            self.output.bias.zero_()
        elif init == "scaled":
            for linear, activation in ((self.hidden, "tanh"), (self.output, "linear")):
                linear.weight.mul_(nn.init.calculate_gain(activation) / linear.in_features**0.5)
                linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:  # (B, T) ids
        embedded = self.embedding(x).flatten(1)  # (B, T, C) -> (B, T * C)
        hidden = torch.tanh(self.hidden(embedded))  # (B, H)
        if self.training and self.dropout:  # by rand, which draws 2.3 to 3.3 times as fast on a CPU as F.dropout
            mask = torch.rand(hidden.shape, device=hidden.device) >= self.dropout
            hidden = hidden * (mask / (1 - self.dropout)).to(hidden.dtype)
        return self.output(hidden)  # (B, V) logits


def check_context_length(x: Tensor, context_length: int) -> None:
    if x.shape[-1] != context_length:
        what = f"the data has contexts of {x.shape[-1]} characters but the model of {context_length}"
        raise UserError(f"{what}: give both the same context_length")


def build_network(hparams: dict[str, Any]) -> nn.Module:
    """The network of these settings; a user's class takes V, T and its init_args. Raises: UserError: it does not."""
    network, sizes = hparams.get("network", "mlp"), (len(hparams["vocabulary"]), hparams["context_length"])
    try:
        if network == "mlp":
            settings = {name: hparams[name] for name in ("embedding_dim", "hidden_size", "init", "dropout")}
            return NameMLP(*sizes, **settings, seed=hparams["init_seed"])
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(hparams["init_seed"])  # not those of GPUs
            return network_class(network)(*sizes, **network_settings(network))
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise UserError(f"a model of this size cannot be made: {shorten(str(error)) or 'out of memory'}") from error
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(f"network {network} does not take its settings: {shorten(str(error))}") from error


def network_class(network: Settings) -> type[nn.Module]:
    name = network if isinstance(network, str) else network.get("name") or network["class_path"]
    return resolve_class(namemlp.NETWORKS.get(name, name), nn.Module, "namemlp.network")


def network_settings(network: Settings) -> dict[str, Any]:
    if isinstance(network, dict) and "name" in network:
        return {name: value for name, value in network.items() if name != "name"}
    return init_args(network)


def init_args(settings: Settings) -> dict[str, Any]:
    return {} if isinstance(settings, str) else settings.get("init_args") or {}


def resolve_class(settings: Settings, base: type, default_module: str) -> type:
    """The subclass of `base` that settings name. Raises: UserError: they name none that is imported already."""
    # Settings may come from a stranger: only the package's modules and Lightning's ReduceLROnPlateau are imported here.
    class_path = settings if isinstance(settings, str) else settings["class_path"]
    module_name, _, name = class_path.rpartition(".")
    if module_name.split(".")[0] == "namemlp" or module_name == "lightning.pytorch.cli":
        with suppress(ImportError):
            __import__(module_name)
    found = getattr(sys.modules.get(module_name or default_module), name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{class_path} is not an imported {base.__name__} class: use a class of {default_module}")
    return found


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a module without dropout and gradients; afterwards each submodule is in the mode it was in before."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
