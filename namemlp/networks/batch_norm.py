"""Batch normalization that is right with a batch of one and with several processes."""

import torch
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """Ioffe and Szegedy (2015), "Batch normalization": (B, H) numbers, less their mean and over their deviation.

    A batch of one has no deviation: it is normalized as in evaluation, by the running statistics. Each of several
    processes normalizes its own share of a batch; the running statistics are the mean of theirs.
    """

    def forward(self, x: Tensor) -> Tensor:
        is_training = self.training
        self.train(is_training and len(x) > 1)
        try:
            x = super().forward(x)
        finally:
            self.train(is_training)
        # Also a process whose last batch is of one takes part: the others wait for it.
        if is_training and torch.distributed.is_available() and torch.distributed.is_initialized():
            statistics = torch.stack([self.running_mean, self.running_var])
            torch.distributed.all_reduce(statistics)
            self.running_mean, self.running_var = statistics / torch.distributed.get_world_size()
        return x
