"""What a command says when it is done."""

import shlex
from pathlib import Path


def metrics_table(metrics: dict[str, dict[str, float]], sizes: dict[str, int]) -> str:
    """A line for each split: number of examples, loss in nats, perplexity, bits per character, accuracies."""
    lines = [f"{'split':<6}{'examples':>10}{'loss':>12}{'perplexity':>12}{'bits/char':>12}{'top-1':>8}{'top-5':>8}"]
    for split, row in metrics.items():
        lines.append(
            f"{split:<6}{sizes[split]:>10,}{row['loss']:>12.5g}{row['perplexity']:>12.5g}"
            f"{row['bits_per_character']:>12.5g}{row['top1']:>8.1%}{row['top5']:>8.1%}"
        )
    return "\n".join(lines)


def resume_command(last: Path, max_steps: int | None = None) -> str:
    """The command that goes on from a run's last.ckpt with the run's own settings."""
    config = last.parent.parent / "config.yaml"
    command = ["python", "-m", "namemlp", "fit", *(["--config", str(config)] if config.is_file() else [])]
    return shlex.join(
        [*command, "--ckpt_path", str(last), *(["--trainer.max_steps", str(max_steps)] if max_steps else [])]
    )


def next_steps(last: Path, best: str, step: int) -> str:
    """Where a finished run's checkpoints are, and the commands that look at its curves and train it on."""
    lowest = f" (lowest val/loss: {Path(best).name})" if best else ""
    return (
        f"checkpoint  {last}{lowest}\n"
        f"curves      tensorboard --logdir {shlex.quote(str(last.parent.parent.parent))}\n"
        f"train on    {resume_command(last, max_steps=2 * step)}"
    )
