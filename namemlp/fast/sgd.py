"""SGD steps of a `NameMLP` in one call, without autograd and without a Python step between them."""

import torch
from lightning import Trainer
from torch import Tensor

from namemlp import lightning_internals as internals
from namemlp.fast.support import overridden_method
from namemlp.fast.torch_steps import step_schedulers
from namemlp.module import NameModule
from namemlp.network import NameMLP, check_context_length
from namemlp.optimizers import learning_rate

# Multiply-adds of a step beyond which a CPU of very many cores makes it faster by torch; see benchmarks/fit.py.
MAX_STEP_MACS = 18e6


def why_not_compiled(trainer: Trainer) -> str | None:
    """Why steps with gradients in closed form need torch, or None: they are plain SGD of all parameters, not large."""
    module, optimizer = trainer.lightning_module, trainer.optimizers[0]
    settings, *more_groups = optimizer.param_groups
    clipping = trainer.gradient_clip_val or overridden_method(module, NameModule, ("configure_gradient_clipping",))
    trained, parameters = {id(p) for p in settings["params"] if p.requires_grad}, {*map(id, module.parameters())}
    network, threads = module.network, torch.get_num_threads()
    # Forward, and twice backward.
    macs = 3 * trainer.train_dataloader.batch_size * (network.hidden.weight.numel() + network.output.weight.numel())
    is_large = macs * (threads - 1) > MAX_STEP_MACS * threads  # compiled steps use one core, torch all of its own
    reasons = {
        "several processes average their gradients": trainer.world_size > 1,
        f"the optimizer is {type(optimizer).__name__}": type(optimizer) is not torch.optim.SGD,
        "the optimizer has several parameter groups": more_groups,
        **{f"the optimizer has {name}": settings.get(name) for name in ("momentum", "weight_decay", "maximize")},
        "optimizer.step has hooks": internals.is_step_watched(optimizer),
        "gradients are clipped": clipping,
        "the network has dropout": network.dropout,
        "not all parameters are trained": not trained == parameters == {*map(id, network.parameters())},
        f"torch is faster at steps of {macs / 1e6:,.0f} million multiply-adds on {threads} cores": is_large,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def fused_steps(trainer: Trainer, first_batch: int, x: Tensor, y: Tensor) -> tuple[Tensor, list[float], int]:
    """Make K steps in one call; the result is that of `torch_steps`."""
    internals.mark_as_stepped(trainer.optimizers[0])
    lrs, scheduler_steps = [learning_rate(trainer)] * len(y), 0
    if any(config.interval == "step" for config in trainer.lr_scheduler_configs):
        for i in range(len(y)):
            lrs[i] = learning_rate(trainer)
            scheduler_steps += step_schedulers(trainer, first_batch + i + 1)
    return fused_sgd_steps(trainer.lightning_module.network, x, y, lrs), lrs, scheduler_steps


@torch.no_grad()
def fused_sgd_steps(network: NameMLP, x: Tensor, y: Tensor, lrs: list[float], in_place: bool = True) -> Tensor:
    """Make K SGD steps in place (or on a copy) on (K, B, T) contexts x and (K, B) next characters y.

    Returns the losses before each step, (K,) float64. Raises: UserError: T is not the network's. IndexError: bad ids.
    """
    from namemlp.fast.kernel import (
        COLUMNS,
        ROWS,
        sgd_steps,
    )  # imported here, because importing Numba takes half a second

    # The kernel checks nothing: it would read or write out of bounds.
    check_context_length(x, network.hidden.in_features // network.embedding.embedding_dim)
    size, hidden, output = network.embedding.num_embeddings, network.hidden, network.output
    if len(x) and (min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= size):
        raise IndexError(f"the data has characters beyond the model's vocabulary of {size}")
    embedding = network.embedding.weight.detach().clone(memory_format=torch.contiguous_format)  # (V, C)
    inputs, units, batch = hidden.in_features, hidden.out_features, x.shape[1]

    # Whole tiles of the products, aligned to 64 bytes.
    def tiles(rows: int, columns: int) -> Tensor:
        return embedding.new_zeros(-(-rows // ROWS) * ROWS, -(-columns // COLUMNS) * COLUMNS)

    # A bias is one more column (of the hidden layer) or row (of the output layer), for an input that is always 1.
    hidden_layer = tiles(units + 1, inputs + 1)  # (H + 1, T * C + 1)
    output_layer = tiles(units + 1, size)  # (H + 1, V)
    copies = {
        network.embedding.weight: embedding,
        hidden.weight: hidden_layer[:units, :inputs],
        hidden.bias: hidden_layer[:units, inputs],
        output.weight: output_layer[:units, :size].T,
        output.bias: output_layer[units, :size],
    }
    for weight, copy in copies.items():
        copy.copy_(weight)
    e = tiles(batch, inputs + 1)  # (B, T * C + 1)
    e[:batch, inputs] = 1
    e_t = tiles(inputs + 1, batch)[: inputs + 1]  # (T * C + 1, B), and so are all that follow
    e_t[inputs, :batch] = 1
    h = tiles(units + 1, batch)
    logits = tiles(size, batch)
    dlogits = tiles(batch, size)  # but this one: (B, V)
    dembedding = torch.empty_like(embedding)
    scratch = e, e_t, h, logits, dlogits, torch.empty_like(h), tiles(inputs, batch), dembedding, tiles(2, batch)
    losses = torch.empty(len(x), dtype=torch.float64)
    arrays = (embedding, hidden_layer, output_layer, x, y, embedding.new_tensor(lrs), losses, *scratch)
    sgd_steps(units, *(array.contiguous().numpy() for array in arrays))
    for weight, copy in copies.items() if in_place else ():
        weight.copy_(copy)
    return losses
