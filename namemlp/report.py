"""What a command says when it is done."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from namemlp.corpus import Corpus
from namemlp.runs import all_runs, is_run_folder
from namemlp.sampling import per_name


def metrics_table(metrics: dict[str, dict[str, float]], sizes: dict[str, int]) -> str:
    """A line for each split: number of examples, loss in nats, perplexity, bits per character, accuracies."""
    lines = [f"{'split':<6}{'examples':>10}{'loss':>12}{'perplexity':>12}{'bits/char':>12}{'top-1':>8}{'top-5':>8}"]
    for split, row in metrics.items():
        lines.append(
            f"{split:<6}{sizes[split]:>10,}{row['loss']:>12.5g}{row['perplexity']:>12.5g}"
            f"{row['bits_per_character']:>12.5g}{row['top1']:>8.1%}{row['top5']:>8.1%}"
        )
    return "\n".join(lines)


def log_probabilities(corpus: Corpus, of_characters: Tensor) -> Iterator[str]:
    """Each name of a list with its log-probability, tab between, from those of its (examples,) characters, in nats."""
    scores = per_name(corpus, of_characters).tolist()
    return (f"{name}\t{score:.4f}\n" for name, score in zip(corpus.names, scores, strict=True))


def resume_command(last: Path, *more: str) -> str:
    """The command that goes on from a run's last.ckpt with the run's own settings."""
    run = last.parent.parent
    config = ["--config", str(run / "config.yaml")] if is_run_folder(run) else []
    return shlex.join(["python", "-m", "namemlp", "fit", *config, "--ckpt_path", str(last), *more])


def next_steps(last: Path, best: str, step: int, by_epochs: bool, goes_on: bool = True) -> str:
    """Where a finished run's checkpoints are, and the commands that look at its curves and, if it can, train it on."""
    run = last.parent.parent
    lowest = f" (lowest val/loss: {Path(best).name})" if best else ""
    lines = [f"checkpoint  {last}{lowest}"]
    if is_run_folder(run):
        lines.append(f"curves      tensorboard --logdir {shlex.quote(str(all_runs(run)))}")
    more = ["--trainer.max_steps", str(2 * step), *(["--trainer.max_epochs", "null"] if by_epochs else [])]
    return "\n".join([*lines, *([f"train on    {resume_command(last, *more)}"] if goes_on else [])])
