"""The overlays of configs/lecture and tuned.yaml with several seeds: a table, and a figure of loss against parameters.

    python benchmarks/lectures.py [--path LIST --shuffles 3] --folder FOLDER [--seeds 1 2 3] [--overlays 2_mlp ...]

A run that is in the folder already is not trained again. Each is a whole command; the seed decides initial weights, the
order and dropout. The lines in the figure are what counting n-grams gets, with Kneser-Ney's smoothing.
"""

import os
import statistics
import sys
from pathlib import Path

from harness import ROOT, THREADS, fit_arguments, make_parser, whole_process
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from namemlp.commands.runs import read_run
from namemlp.datamodule import NamesDataModule
from namemlp.lists import evaluate_counting

OVERLAYS = [*sorted(path.stem for path in (ROOT / "configs/lecture").glob("*.yaml")), "tuned"]
COLORS = {"makemore": "#d1495b", "tuned": "#2a9d4a"}  # all others are the lectures' own
# Names that stand to the left of their point, so that none covers another.
LEFT = ("makemore_transformer", "5_1_context_8", "5_2_hierarchical", "5_3_larger", "3_2_tanh", "2_mlp", "tuned")


def plot_ladder(rows: dict[str, tuple[int, list[float]]], counting: dict[int, float]) -> Figure:
    """Validation loss against parameters.

    Args:
        rows: parameters of each overlay, and the losses of its seeds
        counting: loss of n-grams, by n
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for n, loss in counting.items():
        axes.axhline(loss, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(1.0, loss, f" {n}-grams", transform=axes.get_yaxis_transform(), va="center", color="#555555")
    for name, (parameters, losses) in rows.items():
        color, mean = COLORS.get(name.split("_")[0], "#1f5fa8"), statistics.mean(losses)
        axes.plot([parameters] * 2, [min(losses), max(losses)], color=color, linewidth=4, alpha=0.4)
        axes.plot(parameters, mean, "o", color=color, markersize=5)
        offset, side = ((-6, 0), "right") if name in LEFT else ((6, 0), "left")
        axes.annotate(name, (parameters, mean), offset, textcoords="offset points", ha=side, va="center")
    title = "loss against parameters: points are means of seeds, bars from the lowest to the highest"
    axes.set(xscale="log", xlabel="parameters", ylabel="val/loss (nats)", title=title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = make_parser(__doc__, path="", shuffles=1, folder="ladder", picture="", threads=THREADS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--overlays", nargs="+", default=OVERLAYS, choices=OVERLAYS)
    args = parser.parse_args()
    folder, path = Path(args.folder).absolute(), os.path.abspath(args.path) if args.path else None
    settings = [f"--trainer.default_root_dir={folder}", f"--data.shuffles={args.shuffles}"]
    settings += [f"--data.path={path}"] if path else []
    logs, rows = folder / "lightning_logs", {}
    print("| overlay | parameters | val, mean | of each seed | s |")
    print("| --- | ---: | ---: | --- | ---: |")
    for overlay in args.overlays:
        runs = []
        for seed in args.seeds:
            name = f"{overlay}_seed{seed}"
            if not (logs / name).exists():
                seeds = [f"--seed_everything={seed}", f"--model.init_seed={seed}", f"--name={name}"]
                configs = ("base", overlay if overlay == "tuned" else f"lecture/{overlay}")
                whole_process(fit_arguments(*settings, *seeds, configs=configs), ".", args.threads)
            runs.append(read_run(logs / name / "version_0", logs))
            if runs[-1]["test"] is None:
                sys.exit(f"{logs / name} has not ended: resume it, or remove it")
        losses = [run["last_val"] for run in runs]
        rows[overlay] = runs[0]["parameters"], losses
        each, seconds = ", ".join(f"{loss:.4f}" for loss in losses), statistics.median(run["seconds"] for run in runs)
        cells = f"`{overlay}`", f"{rows[overlay][0]:,}", f"{statistics.mean(losses):.4f}", each, f"{seconds:.0f}"
        print(f"| {' | '.join(cells)} |", flush=True)
    if args.picture:
        data = NamesDataModule(path, shuffles=args.shuffles)
        data.setup("fit")
        models = [model for model in evaluate_counting(data.splits, 6) if model.smoothing == "Kneser-Ney"]
        counting = {model.n: model.losses[1] for model in models if model.n in (2, 3, 4, 6)}  # 5 is close to 6
        plot_ladder(rows, counting).savefig(args.picture, dpi=80)


if __name__ == "__main__":
    main()
