"""Steps of any network and torch optimizer by autograd, as the Trainer makes them but without its work in between."""

import torch
from lightning import Trainer
from torch import Tensor, nn

from namemlp.fast.schedules import step_schedulers
from namemlp.optimizers import learning_rate

MAX_BLOCK_SIZE = 500  # steps, which take a tenth of a second


def autograd_steps(trainer: Trainer, first_batch: int, x: Tensor, y: Tensor) -> tuple[Tensor, list[float], int]:
    """Make K steps, to the last bit as the Trainer would.

    Args:
        trainer: whose module, optimizer and schedulers these are.
        first_batch: index of the first of the batches in its epoch.
        x: (K, B, T) contexts.
        y: (K, B) next characters.

    Returns:
        The K losses, the K learning rates, and how often schedulers were stepped.
    """
    module, optimizer, precision = trainer.lightning_module, trainer.optimizers[0], trainer.precision_plugin
    x, y = x.to(module.device), y.to(module.device)
    losses, lrs, scheduler_steps = [], [], 0
    with torch.enable_grad():
        for i in range(len(y)):
            lrs.append(learning_rate(trainer))
            with precision.train_step_context():
                loss = module.loss(x[i], y[i])
            optimizer.zero_grad()
            loss.backward()
            if trainer.world_size > 1:
                average_gradients(module, trainer.world_size)
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
            scheduler_steps += step_schedulers(trainer, first_batch + i + 1)
            losses.append(loss.detach())
    return torch.stack(losses), lrs, scheduler_steps


def average_gradients(module: nn.Module, world_size: int) -> None:
    """Replace the gradients of a process by their mean over all processes, in one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / world_size
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
