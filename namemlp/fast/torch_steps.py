"""Steps by torch: of any network and optimizer, as the Trainer makes them but without its work in between."""

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from namemlp.fast.closed_form import ClosedForm
from namemlp.optimizers import learning_rate


def torch_steps(
    trainer: Trainer, first_batch: int, x: Tensor, y: Tensor, closed_form: ClosedForm | None
) -> tuple[Tensor, list[float], int]:
    """Make K steps, to the last bit as the Trainer would: their losses and learning rates, and steps of schedulers."""
    module, optimizer, precision = trainer.lightning_module, trainer.optimizers[0], trainer.precision_plugin
    x, y = x.to(module.device), y.to(module.device)  # (K, B, T) and (K, B)
    losses, lrs, scheduler_steps = [], [], 0
    with torch.enable_grad():
        for i in range(len(y)):
            lrs.append(learning_rate(trainer))
            if closed_form is not None:
                loss = closed_form.backward(x[i], y[i])
            else:
                with precision.train_step_context():
                    loss = module.loss(x[i], y[i])
                optimizer.zero_grad()
                loss.backward()
            losses.append(loss.detach())
            if trainer.world_size > 1:
                losses[i] = average_over_processes(trainer, losses[i])
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.step()
            scheduler_steps += step_schedulers(trainer, first_batch + i + 1)
    return torch.stack(losses), lrs, scheduler_steps


def average_over_processes(trainer: Trainer, loss: Tensor) -> Tensor:  # and the gradients, all in one message
    gradients = [p.grad for p in trainer.lightning_module.parameters() if p.grad is not None]
    mean = parameters_to_vector([loss, *gradients]) / trainer.world_size
    torch.distributed.all_reduce(mean)
    vector_to_parameters(mean[1:], gradients)
    return mean[0]


def step_schedulers(trainer: Trainer, batches_done: int) -> int:
    """Step the schedulers that are due after so many batches of the epoch, and return how many these are."""
    configs = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
    due = [config.scheduler for config in configs if batches_done % config.frequency == 0]
    for scheduler in due:
        trainer.lightning_module.lr_scheduler_step(scheduler, None)
    return len(due)
