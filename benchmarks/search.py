"""The search behind configs/tuned.yaml: what was tried, each as a change of that file, and its validation loss.

    python benchmarks/search.py LIST [--only PART OF A NAME] [MORE ARGUMENTS OF fit ...] >> benchmarks/search.md

Prints a line of a Markdown table for each trial. The test split is not looked at.
"""

import os
import tempfile

from harness import THREADS, final_losses, fit_arguments, make_parser, whole_process


def steps(count: int) -> list[str]:
    return [f"--trainer.max_steps={count}", f"--lr_scheduler.total_steps={count}"]


def rate(value: float) -> list[str]:
    return [f"--optimizer.lr={value}", f"--lr_scheduler.max_lr={value}"]


def shape(hidden: int, dropout: float, num_steps: int = 12_000, peak: float = 0.003, decay: float = 0.0) -> list[str]:
    settings = [f"--model.hidden_size={hidden}", f"--model.dropout={dropout}", f"--optimizer.weight_decay={decay}"]
    return [*settings, *steps(num_steps), *rate(peak)]


TRIALS = {
    "400 units, dropout 0.2, 12,000 steps, weight decay 0.01": shape(400, 0.2, decay=0.01),
    "the same, averaged weights (EMA 0.999)": [
        *shape(400, 0.2, decay=0.01),
        "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging",
        "--trainer.callbacks.decay=0.999",
    ],
    "800 units, dropout 0.3, 12,000 steps": shape(800, 0.3),
    "the same, weight decay 0.1": shape(800, 0.3, decay=0.1),
    "the same, context 7": [*shape(800, 0.3), "--model.context_length=7"],
    "the same, context 10": [*shape(800, 0.3), "--model.context_length=10"],
    "the same, embedding 48": [*shape(800, 0.3), "--model.embedding_dim=48"],
    "the same, batch 256 and 24,000 steps": [*shape(800, 0.3, 24_000), "--data.batch_size=256"],
    "1,600 units, dropout 0.4, 12,000 steps, peak rate 0.002": shape(1600, 0.4, peak=0.002),
    "1,600 units, dropout 0.4, 24,000 steps, peak rate 0.002": shape(1600, 0.4, 24_000, peak=0.002),
    "1,600 units, dropout 0.5, 24,000 steps, peak rate 0.002": shape(1600, 0.5, 24_000, peak=0.002),
    "3,200 units, dropout 0.5, 30,000 steps, peak rate 0.0015": shape(3200, 0.5, 30_000, peak=0.0015),
    "6,400 units, dropout 0.6, 30,000 steps, peak rate 0.001": shape(6400, 0.6, 30_000, peak=0.001),
    "3,200 units, dropout 0.5, batch 256, 60,000 steps, peak rate 0.001": [
        *shape(3200, 0.5, 60_000, peak=0.001),
        "--data.batch_size=256",
    ],
}


def main() -> None:
    parser = make_parser(__doc__, threads=THREADS)
    parser.add_argument("list")
    parser.add_argument("--only", default="", help="a part of the names of those to try")
    args, more = parser.parse_known_args()
    data = [f"--data.path={os.path.abspath(args.list)}", "--data.shuffles=3"]
    for name, changes in TRIALS.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            settings = [*data, "--trainer.logger=false", *changes, *more]
            fit = fit_arguments(*settings, configs=("base", "tuned"))
            seconds, out = whole_process(fit, folder, args.threads)
        losses = final_losses(out)
        print(f"| {name} | {losses['train']:.4f} | {losses['val']:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
