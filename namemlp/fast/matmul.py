"""Products of float32 matrices on a CPU by oneDNN, which makes large ones in half the time on some CPUs."""

from functools import cache
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from namemlp import lightning_internals as internals

# Multiply-adds of a forward pass from which it is faster; for each product it takes 13 µs more to begin.
MIN_MACS = 2.5e6


@cache
def is_onednn_exact() -> bool:
    """Whether its products have the error of float32: on CPUs with units for bfloat16 (as Intel's AMX) they may not."""
    if not torch.backends.mkldnn.is_available():
        return False
    settings = dict(dtype=torch.float32, device="cpu")
    last_bit = torch.eye(512, **settings) * (1 + 2**-23)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # allows oneDNN to round; torch takes it for nothing else
    product = last_bit @ torch.ones(512, 512, **settings)
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    return bool((product == 1 + 2**-23).all())


class FastMatmul(Callback):
    """During fit, take oneDNN for large products of float32 matrices on a CPU, where their error is that of float32.

    It leaves `torch.backends.mkldnn.matmul.fp32_precision` alone where that has been set to anything.
    """

    is_free = False  # whether nobody else has set it

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_free = self.enabled and torch.backends.mkldnn.matmul.fp32_precision == "none"
        self.choose(trainer.train_dataloader, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.choose(trainer.val_dataloaders, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.choose(trainer.train_dataloader, pl_module)

    def choose(self, loader: Any, pl_module: LightningModule) -> None:
        if self.is_free:
            macs = (getattr(loader, "batch_size", None) or 1) * sum(p.numel() for p in pl_module.parameters())
            is_large = macs >= MIN_MACS and pl_module.device.type == "cpu"
            # torch.compile would ask for the precision by the name it had before, which is then an error.
            is_faster = is_large and not internals.is_compiled(pl_module) and is_onednn_exact()
            torch.backends.mkldnn.matmul.fp32_precision = "bf16" if is_faster else "none"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.is_free:
            torch.backends.mkldnn.matmul.fp32_precision = "none"
        self.is_free = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")
