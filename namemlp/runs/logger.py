"""The program's own logger: TensorBoard, with a folder for each run and x axes that count steps from 1."""

import math
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from namemlp.errors import UserError
from namemlp.runs.folders import LOG_DIR, is_run_folder


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger that makes the folder of a new run its own, also where two runs start at one moment."""

    last_point: tuple[dict[str, float], int | None] | None = None
    new_folder: Path | None = None  # that this logger has made

    def _get_next_version(self) -> int:
        while True:
            version = super()._get_next_version()
            try:
                if rank_zero_only.rank == 0:  # which decides where the run is
                    folder = Path(self.root_dir, f"version_{version}")
                    folder.mkdir(parents=True)
                    self.new_folder = folder
                return version
            except FileExistsError:
                if not Path(self.root_dir).is_dir():
                    raise

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write a point of each curve. Lightning calls the first step 0; here it is step 1."""
        values = {name: float(value) for name, value in metrics.items()}
        if (values, step) == self.last_point:  # it was logged before a checkpoint was saved
            return
        self.last_point = dict(values), step
        if "epoch" in values:  # TensorBoard sorts by name, and what is looked at first comes first
            values["train/num_epochs"] = values.pop("epoch")
        if values.get("train/loss", 0) > 0:
            values["train/log10_loss"] = math.log10(values["train/loss"])
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self.experiment.file_writer.add_summary(summary, (step or 0) + 1)  # in a third of the time of one each

    @rank_zero_only
    def save(self) -> None:
        """Write hparams.yaml. The curves are not flushed at every save, which waits for the disk: checkpoints do it."""
        if not Path(self.log_dir, self.NAME_HPARAMS_FILE).is_file():
            super().save()

    def discard(self) -> None:
        """Remove the folder of a new run that has failed before its first step, and folders that are then empty."""
        if self.new_folder is not None:
            shutil.rmtree(self.new_folder)
            for folder in (Path(self.root_dir), Path(self.save_dir, LOG_DIR)):
                with suppress(OSError):
                    folder.rmdir()

    @rank_zero_only
    def finalize(self, status: str) -> None:  # not yet a finished run's file: its final losses come after
        if status == "success":
            self.save()
            self.experiment.flush()
        else:
            super().finalize(status)


def log_hparams(logger: TensorBoardLogger, settings: dict[str, Any], losses: dict[str, float], step: int) -> None:
    """Log the losses of a finished run, and its settings for the page HParams: model and optimizer first."""
    logger.log_metrics(losses, step)
    settings = {name: value if type(value) in (int, float) else str(value) for name, value in settings.items()}
    experiment, start, end = hparams(settings, losses)
    plugin_data = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin_data.content)
    for info in content.experiment.hparam_infos:  # TensorBoard sorts by this first, and then by name
        info.differs = info.name.startswith(("model.", "optimizer."))
    plugin_data.content = content.SerializeToString()
    for summary in (experiment, start, end):
        logger.experiment.file_writer.add_summary(summary, step)


def make_run_logger(root: Path, name: str | None, ckpt_path: Path | None, checkpoint: dict | None) -> RunLogger:
    """The logger of a new run, or of the run that a checkpoint lies in. Raises: UserError: the name is not its name."""
    if name is not None and (not re.fullmatch(r"\w[\w.-]*", name) or name.startswith("version_")):
        raise UserError(f"name is {name!r}: it may have letters, digits, '_', '-' and '.', and not begin with version_")
    shared = dict(default_hp_metric=False, max_queue=1000)  # room for the points of a block: training never waits
    run = ckpt_path and ckpt_path.parent.parent
    if run and len(run.parts) < 2:  # as seen from within it
        run = Path(os.path.abspath(ckpt_path)).parent.parent
    if run is None or not is_run_folder(run):
        return RunLogger(root, name=LOG_DIR if name is None else f"{LOG_DIR}/{name}", **shared)
    if name is not None and run.parent.name != name:
        raise UserError(f"name is {name!r}, but {ckpt_path} belongs to the run {run}: omit --name or --ckpt_path")
    # TensorBoard reads the files of a run in the order of their names: the second they were begun in, host, process.
    *_, newest = ["", *sorted(file.name for file in run.glob("events.out.tfevents.*"))]
    if f".{int(time.time())}." in newest and f".{os.getpid()}." not in newest:
        time.sleep(1)
    # What an interrupted run has logged beyond its checkpoint is logged again: TensorBoard drops the first try.
    step = checkpoint["global_step"] + 1
    return RunLogger(run.parent.parent, name=run.parent.name, version=run.name, purge_step=step, **shared)
