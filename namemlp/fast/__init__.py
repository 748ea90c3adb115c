"""Training at the speed of the machine: the strategies `fused` and `fused_ddp`, and the products of matrices."""

from namemlp.fast.matmul import FastMatmul
from namemlp.fast.strategy import FusedDDPStrategy, FusedStrategy  # not lazily: the import registers their names

__all__ = ["FastMatmul", "FusedDDPStrategy", "FusedStrategy"]
