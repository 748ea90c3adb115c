"""Learning rates of the steps of a block."""

from lightning import Trainer

from namemlp.optimizers import learning_rate


def step_schedulers(trainer: Trainer, batches_done: int) -> int:
    """Step the schedulers that are due after so many batches of the epoch, and return how many these are."""
    due = [
        config
        for config in trainer.lr_scheduler_configs
        if config.interval == "step" and batches_done % config.frequency == 0
    ]
    for config in due:
        trainer.lightning_module.lr_scheduler_step(config.scheduler, None)
    return len(due)


def next_learning_rates(trainer: Trainer, first_batch: int, steps: int) -> tuple[list[float], int]:
    """The learning rates of the next steps, whose schedulers are stepped, and how often they were."""
    if not any(config.interval == "step" for config in trainer.lr_scheduler_configs):
        return [learning_rate(trainer)] * steps, 0
    lrs, scheduler_steps = [], 0
    for batch in range(first_batch, first_batch + steps):
        lrs.append(learning_rate(trainer))
        scheduler_steps += step_schedulers(trainer, batch + 1)
    return lrs, scheduler_steps
