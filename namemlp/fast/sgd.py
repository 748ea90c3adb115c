"""SGD steps of a `NameMLP` in one call, without autograd and without a Python step between them."""

import torch
from lightning import Trainer
from torch import Tensor, nn

from namemlp.errors import UserError
from namemlp.fast.schedules import next_learning_rates
from namemlp.fast.support import overridden_method
from namemlp.lightning_internals import flush_kernel_cache, has_hooks, is_compiled, is_step_watched, mark_as_stepped
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.optimizers import learning_rate

# Multiply-adds of a step beyond which a CPU of very many cores makes it faster by torch; see benchmarks/fit.py.
MAX_STEP_MACS = 18e6


def why_not_fused(trainer: Trainer) -> str | None:
    """Why the steps need autograd, or None: they are plain SGD of all parameters of an unmodified `NameMLP`."""
    module, network, optimizer = trainer.lightning_module, trainer.lightning_module.network, trainer.optimizers[0]
    if trainer.world_size > 1:
        return "several processes average their gradients"
    if type(optimizer) is not torch.optim.SGD:
        return f"the optimizer is {type(optimizer).__name__}"
    settings, *more_groups = optimizer.param_groups
    if more_groups:
        return "the optimizer has several parameter groups"
    for name in ("momentum", "weight_decay", "maximize"):
        if settings[name]:
            return f"the optimizer has {name}"
    if is_step_watched(optimizer):
        return "optimizer.step has hooks"
    if trainer.gradient_clip_val or overridden_method(module, NameModule, ("configure_gradient_clipping",)):
        return "gradients are clipped"
    if name := overridden_method(module, NameModule, ("forward", "loss")):
        return f"{type(module).__name__} overrides {name}"
    if has_hooks(module):
        return "the module or a parameter has hooks"
    if module.dtype not in (torch.float32, torch.float64):
        return f"the weights are {str(module.dtype).removeprefix('torch.')}"
    if not is_unmodified(network) or network.dropout:
        return "the network has dropout" if getattr(network, "dropout", 0) else "the network is not a plain NameMLP"
    if module.device.type != "cpu":
        return f"the device is {module.device.type}"
    trained = {id(p) for p in settings["params"] if p.requires_grad}
    if not trained == {*map(id, network.parameters())} == {*map(id, module.parameters())}:
        return "not all parameters are trained"
    # The compiled steps use one core, so that it depends on how many torch has.
    macs, threads = macs_per_step(network, trainer.train_dataloader.batch_size), torch.get_num_threads()
    if macs * (threads - 1) > MAX_STEP_MACS * threads:
        return f"torch is faster at steps of {macs / 1e6:,.0f} million multiply-adds on {threads} cores"
    return None


def is_unmodified(network: nn.Module) -> bool:
    """Whether a network is a `NameMLP` as it was built."""
    modules, parameters = list(network.modules()), list(network.parameters())
    if [type(module) for module in modules] != [NameMLP, nn.Embedding, nn.Linear, nn.Linear]:
        return False
    if any("forward" in vars(module) or is_compiled(module) for module in modules):
        return False
    embedding, hidden, output = modules[1:]
    if embedding.padding_idx is not None or embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse:
        return False
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        return False
    V, C, H, T = output.out_features, embedding.embedding_dim, hidden.out_features, context_length(network)
    return [tuple(p.shape) for p in parameters] == [(V, C), (H, T * C), (H,), (V, H), (V,)]


def context_length(network: NameMLP) -> int:
    return network.hidden.in_features // network.embedding.embedding_dim


def macs_per_step(network: NameMLP, batch_size: int) -> int:
    """Multiply-adds of one step: those of two layers, forward and twice backward."""
    return 3 * batch_size * (network.hidden.weight.numel() + network.output.weight.numel())


def fused_steps(trainer: Trainer, first_batch: int, x: Tensor, y: Tensor) -> tuple[Tensor, list[float], int]:
    """Make K steps in one call; arguments and result as of `autograd_steps`."""
    network = trainer.lightning_module.network
    mark_as_stepped(trainer.optimizers[0])
    lrs, scheduler_steps = next_learning_rates(trainer, first_batch, len(y))
    return fused_sgd_steps(network, x, y, lrs), lrs, scheduler_steps


def fused_step(trainer: Trainer, x: Tensor, y: Tensor) -> None:
    """Make the step of a batch, (B, T) and (B,), after which the Trainer steps the schedulers."""
    mark_as_stepped(trainer.optimizers[0])
    fused_sgd_steps(trainer.lightning_module.network, x[None], y[None], [learning_rate(trainer)])


def fused_loss(network: NameMLP, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch, (B, T) and (B,), as the kernel computes it."""
    return fused_sgd_steps(network, x[None], y[None], [0.0], in_place=False)[0]


def check_ids(network: NameMLP, x: Tensor, y: Tensor) -> None:
    """Raise an error where the kernel, which checks nothing, would read or write out of bounds."""
    if x.shape[-1] != context_length(network):
        raise UserError(
            f"the data has contexts of {x.shape[-1]} characters but the model of {context_length(network)}: "
            "give both the same context_length"
        )
    size = network.embedding.num_embeddings
    if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= size):
        raise IndexError(f"the data has characters beyond the model's vocabulary of {size}")


def prepare(network: NameMLP) -> None:
    """Compile the kernel for a network, or load it from disk."""
    from namemlp.fast.kernel import sgd_steps

    x = torch.zeros(0, 1, context_length(network), dtype=torch.int64)
    try:
        fused_sgd_steps(network, x, x[..., 0], [])
    except Exception:  # a damaged file fails in many ways
        flush_kernel_cache(sgd_steps)
        fused_sgd_steps(network, x, x[..., 0], [])


@torch.no_grad()
def fused_sgd_steps(network: NameMLP, x: Tensor, y: Tensor, lrs: list[float], in_place: bool = True) -> Tensor:
    """Make K SGD steps in place (or on a copy), each with its own mini-batch and learning rate.

    Args:
        network: float32 or float64, on the CPU.
        x: (K, B, T) contexts.
        y: (K, B) next characters.
        lrs: K learning rates.

    Returns:
        The K losses before each step, (K,) float64.

    Raises: UserError: the contexts are not as long as those of the network.
        IndexError: an id is not in the vocabulary.
    """
    from namemlp.fast.kernel import sgd_steps  # imported here, because importing Numba takes half a second

    check_ids(network, x, y)
    hidden, output = network.hidden, network.output
    embedding = network.embedding.weight.detach().clone(memory_format=torch.contiguous_format)  # (V, C)
    size, inputs, units, batch = len(embedding), hidden.in_features, hidden.out_features, x.shape[1]

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
    changes = [torch.empty_like(tensor) for tensor in (e, h, embedding, hidden_layer, output_layer)]
    arrays = (embedding, hidden_layer, output_layer, x, y, embedding.new_tensor(lrs), losses, e, h, logits, *changes)
    sgd_steps(units, *(array.contiguous().numpy() for array in arrays))
    for weight, copy in copies.items() if in_place else ():
        weight.copy_(copy)
    return losses
