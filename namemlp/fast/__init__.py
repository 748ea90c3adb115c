"""The same training steps, many for one batch of the Trainer: the strategies `fused` and `fused_ddp`."""

from namemlp.fast.strategy import FusedDDPStrategy, FusedStrategy  # not lazily: the import registers their names

__all__ = ["FusedDDPStrategy", "FusedStrategy"]
