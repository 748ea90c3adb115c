"""What makes the updates of a block: a compiled loop, a CUDA graph, or autograd and the optimizer one by one."""

from collections.abc import Callable
from functools import partial

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from namemlp.blocks import Blocks
from namemlp.errors import SMALLER, Diverged, UserError
from namemlp.network import NameMLP
from namemlp.optimizers import learning_rate, step_schedulers
from namemlp.windows import TrainingOrder

# (K, B, T) contexts and (K, B) next characters -> K losses and the K learning rates
Engine = Callable[[Tensor, Tensor], tuple[Tensor, list[float]]]

# Multiply-adds of an update beyond which a CPU of very many cores does it faster by torch; see benchmarks/fit.py.
LARGEST_UPDATE = 18e6
MOST_BY_AUTOGRAD = 500  # updates in a block, so that this too takes a tenth of a second


def engine(module: LightningModule, blocks: Blocks) -> tuple[Engine, str]:
    """What makes the updates of blocks, ready to go, and its name for the log; the blocks become as it needs them."""
    if reason := beyond_sgd(module):
        blocks.longest = min(blocks.longest, MOST_BY_AUTOGRAD)
        return partial(by_autograd, module), f"by autograd: {reason}"
    in_the_way = blocks.obstacle
    blocks.obstacle = lambda: in_the_way() or beyond_sgd(module)
    # Imported here, because importing Numba takes half a second.
    if module.device.type == "cuda":
        from namemlp.graph import GraphUpdates

        graph = GraphUpdates(module.network, module.trainer.train_dataloader.sampler.update_size, blocks.longest)
        return partial(at_once, module, graph), "replayed as a CUDA graph"
    from namemlp import fused

    fused.prepare(module.network)
    return partial(at_once, module, partial(fused.make_updates, module.network)), "compiled for this CPU"


def at_once(module: LightningModule, make_updates: Callable, x: Tensor, y: Tensor) -> tuple[Tensor, list[float]]:
    """Make the updates by one call with their learning rates."""
    trainer = module.trainer
    trainer.optimizers[0]._opt_called = True  # else a schedule warns that it is ahead of the updates
    rates = [learning_rate(trainer)] * len(y)
    for i in range(1, len(y)) if (schedules := step_schedulers(trainer)) else ():
        for config in schedules:  # the Trainer itself makes the last step of the block
            module.lr_scheduler_step(config.scheduler, None)
        rates[i] = learning_rate(trainer)
    if reason := more_than_sgd(trainer):
        raise UserError(f"{reason} since step {trainer.global_step}: set model.updates_per_block to 1")
    return make_updates(x, y, rates), rates


def by_autograd(module: LightningModule, x: Tensor, y: Tensor) -> tuple[Tensor, list[float]]:
    """Make the updates as the Trainer would, to the last bit, without its work between them."""
    trainer, optimizer = module.trainer, module.trainer.optimizers[0]
    losses, rates, of_numbers = [], [], torch.get_default_dtype()  # which is that of the run's precision here
    for i in range(len(y)):
        for config in step_schedulers(trainer) if i else ():
            module.lr_scheduler_step(config.scheduler, None)
        rates.append(learning_rate(trainer))
        loss = module.loss(x[i], y[i])
        torch.set_default_dtype(torch.float32)  # as it is then, by which some optimizers make their state
        optimizer.zero_grad()
        loss.backward()
        module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        optimizer.step()
        torch.set_default_dtype(of_numbers)
        losses.append(loss.detach())
    return torch.stack(losses), rates


def check_losses(losses: Tensor, rates: list[float], step: int) -> None:
    """Stop at the first of the updates after a step whose loss, (K,), is not finite."""
    if losses.isfinite().all():
        return
    i = losses.isfinite().tolist().index(False)
    where = f"at step {step + 1 + i:,} with learning rate {rates[i]:g}"
    raise Diverged(f"the loss is {losses[i].item()} {where}: {SMALLER}")


def beyond_sgd(module: LightningModule) -> str | None:
    """Why the updates of a module need autograd, or None: they are plain SGD on a plain `NameMLP`."""
    trainer, network = module.trainer, module.network
    if reason := more_than_sgd(trainer):
        return reason
    if trainer.gradient_clip_val:
        return "gradients are clipped"
    if getattr(network, "dropout", 0):
        return "the network has dropout"
    if module.dtype not in (torch.float32, torch.float64):
        return f"the weights are {str(module.dtype).removeprefix('torch.')}"
    if not is_plain(network):
        return "the network is not a plain NameMLP"
    trained = {id(p) for p in trainer.optimizers[0].param_groups[0]["params"] if p.requires_grad}
    if trained != {*map(id, network.parameters())}:
        return "not all parameters are trained"
    work, threads = multiply_adds(network, trainer.train_dataloader.sampler), torch.get_num_threads()
    # The compiled updates use one core, so that it depends on how many torch has.
    if module.device.type == "cpu" and work * (threads - 1) > LARGEST_UPDATE * threads:
        return f"torch is faster at updates of {work / 1e6:,.0f} million multiply-adds on {threads} cores"
    return None


def more_than_sgd(trainer: Trainer) -> str | None:
    """What the optimizer does beside plain SGD on one set of parameters, or None."""
    optimizer, *others = trainer.optimizers
    if type(optimizer) is not torch.optim.SGD or others:
        return f"the optimizer is {type(optimizer).__name__}"
    settings, *more_settings = optimizer.param_groups
    for name in ("momentum", "weight_decay", "maximize"):
        if settings[name]:
            return f"the optimizer has {name}"
    if more_settings:
        return "the optimizer has several groups of parameters"
    return None


def is_plain(network: nn.Module) -> bool:
    """Whether a network is a `NameMLP` as it was made, with hooks nowhere."""
    modules, parameters = list(network.modules()), list(network.parameters())
    if [type(module) for module in modules] != [NameMLP, nn.Embedding, nn.Linear, nn.Linear]:
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if _has_any_global_hook() or any(getattr(module, hook) for module in modules for hook in hooks):
        return False
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters):
        return False
    if any("forward" in vars(module) for module in modules):
        return False
    embedding, hidden, output = modules[1:]
    if embedding.padding_idx is not None or embedding.max_norm or embedding.scale_grad_by_freq or embedding.sparse:
        return False
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        return False
    size, dim, units = output.out_features, embedding.embedding_dim, hidden.out_features
    shapes = [(size, dim), (units, hidden.in_features // dim * dim), (units,), (size, units), (size,)]
    return [tuple(p.shape) for p in parameters] == shapes


def multiply_adds(network: NameMLP, order: TrainingOrder) -> int:
    """Multiply-adds in one update: those of two layers, forward and twice backward."""
    batch_size = min(order.update_size, order.num_examples)
    return 3 * batch_size * (network.hidden.weight.numel() + network.output.weight.numel())
