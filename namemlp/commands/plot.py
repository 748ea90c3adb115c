"""`namemlp plot`: figures of a run and its model, without Lightning."""

import sys
from pathlib import Path

from namemlp import viz
from namemlp.commands.sample import write_lines
from namemlp.errors import UserError
from namemlp.runs import is_finite, is_run_folder, read_curves
from namemlp.share import load_list, open_model
from namemlp.windows import ContextDataset


def plot(
    ckpt_path: str | None = None,
    output: str | None = None,
    path: str | None = None,
    default_root_dir: str | None = None,
) -> None:
    """Plot what a model has learned of its list, where it is wrong, and the losses of its run.

    Args:
        ckpt_path: the model: a path, or last or best: that checkpoint of the newest run
        output: folder to save the figures to; null: that of the run
    """
    model, file = open_model(ckpt_path, default_root_dir, "plot")
    network, vocabulary, context_length = model.network, model.vocabulary, model.context_length
    if not is_finite(network):
        raise UserError(
            f"{file}: its weights are not finite, so that there is nothing to plot: give another checkpoint"
        )
    _, splits = load_list(model, file, path)
    train_set, val_set, _ = (ContextDataset(part, context_length) for part in splits.parts)
    train, val = (viz.evaluate_examples(network, vocabulary, examples) for examples in (train_set, val_set))
    run = file.parent.parent
    curves = read_curves(run) if is_run_folder(run) else {}
    folder = Path(output) if output else run if is_run_folder(run) else file.parent
    figures = {
        "next_characters.png": viz.plot_next_characters(viz.count_pairs(network, vocabulary, train_set)),
        "loss_by_place.png": viz.plot_losses_by_place(train, val),
        "calibration.png": viz.plot_calibration(viz.calibrate(network, vocabulary, val_set)),
    }
    if "val/loss" in curves and "train/loss" in curves:
        figures["loss.png"] = viz.plot_losses(curves)
    else:
        print(f"no curves of train/loss and val/loss in {run}, and so no loss.png", file=sys.stderr)
    for name, figure in figures.items():
        viz.save_figure(figure, folder / name, setting="--output")
        print(folder / name)
    write_lines(viz.describe_names_by_loss(val).splitlines(), str(folder / "val_names.txt"))
    print(folder / "val_names.txt")
