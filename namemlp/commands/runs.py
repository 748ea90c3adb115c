"""`namemlp runs`: a table of runs, from what they have written."""

import csv as csv_module
import sys
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning import Trainer
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from namemlp.commands.cli import TRAINER_DEFAULTS
from namemlp.datamodule import NamesDataModule
from namemlp.errors import UserError, shorten
from namemlp.module import NameModule
from namemlp.network import build_network
from namemlp.optimizers import SGD
from namemlp.runs import LOG_DIR, LastCheckpoint, flatten, is_run_folder, read_checkpoint, read_curves

UNIMPORTANT = ["name", "data.vocabulary"]  # for the result
UNIMPORTANT += [f"trainer.{name}" for name in ("max_steps", "default_root_dir", "enable_progress_bar")]
COLUMNS = ("run", "parameters", "steps", "seconds", "best_val", "last_val", "test", "settings")


def runs(
    default_root_dir: str | None = None,
    sort: Literal["run", "parameters", "steps", "seconds", "best_val", "last_val", "test", "settings"] = "best_val",
    csv: bool = False,
) -> None:
    """Print a line for each run in lightning_logs: its losses, and which of its settings are not the defaults.

    Args:
        sort: the column to sort by
        csv: print comma-separated values
    """
    folder = Path(default_root_dir or ".") / LOG_DIR
    rows = [read_run(run, folder) for run in (*folder.glob("*"), *folder.glob("*/*")) if is_run_folder(run)]
    if not rows:
        raise UserError(f"there is no run in {folder}: run fit first, or give another trainer.default_root_dir")
    missing = [row for row in rows if row[sort] in (None, "") or row[sort] != row[sort]]  # NaN too
    rows = sorted((row for row in rows if row not in missing), key=lambda row: (row[sort], row["run"])) + missing
    if csv:
        writer = csv_module.DictWriter(sys.stdout, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        return
    texts = [COLUMNS, *([format_value(name, row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for name, *numbers, settings in texts:
        cells = [text.rjust(width) for text, width in zip(numbers, widths[1:-1], strict=True)]
        print("  ".join([name.ljust(widths[0]), *cells, settings]).rstrip())


def read_run(run: Path, folder: Path) -> dict[str, Any]:
    """What the columns say of a run; None: it has not written it."""
    row = dict.fromkeys(COLUMNS)
    curves = read_curves(run)
    losses = curves.get("val/loss", ([], []))[1]
    last_step = max((step for steps, _ in curves.values() for step in steps), default=0)
    row |= {"run": str(run.relative_to(folder)), "steps": last_step, "last_val": losses[-1] if losses else None}
    row["best_val"] = min((loss for loss in losses if loss == loss), default=None)  # without NaN
    row["test"] = curves.get("whole/test_loss", ([], [None]))[1][-1]
    row["seconds"] = sum(seconds_of(path) for path in run.glob("events.out.tfevents.*") if path.is_file())
    for path in (run / "checkpoints").glob("last.ckpt"):
        with suppress(UserError):  # it is damaged
            row["parameters"] = count_parameters(read_checkpoint(path))
    try:
        changed = changed_settings(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
        row["settings"] = ", ".join(f"{name} {value}" for name, value in changed.items())
    except (yaml.YAMLError, ValueError, AttributeError, TypeError):  # not YAML, not UTF-8, no mapping of names
        row["settings"] = "config.yaml is damaged"
    return row


def seconds_of(events: Path) -> float:  # from the first to the last event of a file, which one fit has written
    times = [event.wall_time for event in EventFileLoader(str(events)).Load()]
    return max(times) - min(times) if times else 0.0


def count_parameters(checkpoint: dict[str, Any]) -> int:
    with suppress(UserError), torch.device("meta"):  # without memory
        return sum(parameter.numel() for parameter in build_network(checkpoint["hyper_parameters"]).parameters())
    return sum(tensor.numel() for tensor in checkpoint["state_dict"].values())  # of a class that is not imported here


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config.yaml that are not the defaults, but for those that say nothing of the result."""
    parts = {"data": NamesDataModule, "model": NameModule, "checkpoint": LastCheckpoint, "trainer": Trainer}
    defaults = {f"{part}.{name}": p.default for part, c in parts.items() for name, p in signature(c).parameters.items()}
    defaults |= {f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()}
    defaults |= {"trainer.precision": "32-true", "baseline": True, "fast_matmul": True, "seed_everything": 2147483647}
    for part, module in {"optimizer": torch.optim, "lr_scheduler": torch.optim.lr_scheduler}.items():
        settings = config.get(part) or {}
        used = getattr(module, str(settings.get("class_path")).rpartition(".")[2], None)
        for name, p in signature(used).parameters.items() if used else ():
            defaults[f"{part}.init_args.{name}"] = p.default
    defaults |= flatten({"optimizer": SGD})
    changed = {}
    for name, value in flatten(config).items():
        default = defaults.get(name)
        default = list(default) if isinstance(default, tuple) else default
        if value not in (default, None) and name not in UNIMPORTANT:
            short = name.replace(".init_args", "").removesuffix(".class_path").replace("network.name", "network")
            changed[short] = str(value).removeprefix("torch.optim.").removeprefix("lr_scheduler.")
    return changed


def format_value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return shorten(value) if name == "settings" else value
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if name == "seconds" else f"{value:.4f}"
