"""Several processes from Python, with a Trainer's defaults: each example of an epoch exactly once."""

import json
from pathlib import Path

import pytest

from namemlp import NamesDataModule
from tests.processes import Command, start_two

SCRIPT = """
import atexit, gc, json, sys
import torch
torch.set_num_threads(1)
from lightning import Callback, Trainer
from namemlp import NameModule, NamesDataModule

class Watch(Callback):
    def __init__(self, case):
        self.case = case
        self.seen = {"train": [], "val": [], "test": []}

    def setup(self, trainer, module, stage):
        # Lightning leaves this to the end of the process, where threads of gloo that are still in use abort it.
        atexit.register(self.destroy_process_group)

    def destroy_process_group(self):
        gc.collect()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def note(self, split, batch, weight=1):
        self.seen[split] += [[*x, y] for x, y in zip(batch[0].tolist(), batch[1].tolist())] if weight else []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        sampler = trainer.train_dataloader.sampler
        self.note("train", batch, not hasattr(sampler, "loss_weight") or sampler.loss_weight(batch_idx))

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.note("val", batch)

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.note("test", batch)

    def teardown(self, trainer, module, stage):
        with open(f"seen-{self.case}-{trainer.state.fn.value}-{trainer.global_rank}.json", "w") as file:
            json.dump([self.seen, {k: v.item() for k, v in trainer.callback_metrics.items()}], file)

def main():
    for case in sys.argv[1:]:
        strategy, devices = case.split(":")
        data = NamesDataModule("names.txt", batch_size=16, eval_batch_size=7)
        data.setup("fit")
        model = NameModule(str(data.vocabulary), hidden_size=20)
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", devices=int(devices), callbacks=[Watch(case)], logger=False,
            strategy=strategy, num_sanity_val_steps=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )
        trainer.fit(model, data)
        if strategy != "ddp_spawn":  # whose processes start in the same way as for fit, which takes seconds
            trainer.test(model, data, verbose=False)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("cases", [["ddp:2"], ["ddp_spawn:2", "ddp_notebook:2", "ddp:1"]], ids=str)
def test_each_example_is_seen_exactly_once(folder, cases):
    Path("script.py").write_text(SCRIPT)
    is_started_twice = cases == ["ddp:2"]  # the others start their processes themselves, or have one
    commands = start_two(*cases, script="script.py") if is_started_twice else [Command(*cases, script="script.py")]
    for command in commands:
        command.result()
    data = NamesDataModule("names.txt")
    data.setup("fit")

    def examples(split):
        return sorted(
            [*x, y] for x, y in zip(*(part.tolist() for part in getattr(data, f"{split}_set")[:]), strict=True)
        )

    for case in cases:
        results = {}
        for fn in ("fit",) if case == "ddp_spawn:2" else ("fit", "test"):
            files = [Path(f"seen-{case}-{fn}-{rank}.json") for rank in range(int(case[-1]))]
            results[fn] = [json.loads(file.read_text()) for file in files]
            assert all(metrics == results[fn][0][1] for _, metrics in results[fn])  # those of all processes together
        for split in ("train", "val", "test") if "test" in results else ("train", "val"):
            parts = results["test" if split == "test" else "fit"]
            assert sorted(example for seen, _ in parts for example in seen[split]) == examples(split), (case, split)
