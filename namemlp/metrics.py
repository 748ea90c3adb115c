"""Loss and accuracy over whole splits."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric


class NameMetrics(nn.Module):
    """Averages over examples: loss (in nats), perplexity, bits per character, top-1 and top-5 accuracy."""

    def __init__(self) -> None:
        super().__init__()
        # NaN stays NaN (torchmetrics' "disable" would forget the weights).
        self.averages = nn.ModuleDict({name: MeanMetric(nan_strategy=math.nan) for name in ("loss", "top1", "top5")})

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Take in (B, V) logits and (B,) next characters."""
        logits = logits.float()  # half precision would round the loss to three digits
        hits = logits.topk(min(5, logits.shape[1])).indices == y[:, None]  # (B, 5)
        values = {
            "loss": F.cross_entropy(logits, y),
            "top1": hits[:, 0].float().mean(),
            "top5": hits.any(1).float().mean(),
        }
        for name, value in values.items():
            metric = self.averages[name]
            if metric.weight.dtype not in (torch.float32, torch.float64):
                metric.set_dtype(torch.float32)  # bfloat16 does not count beyond 256
            metric.update(value, weight=len(y))

    def compute(self) -> dict[str, float]:
        """The averages over all that has been taken in, which is then forgotten."""
        values = {name: metric.compute() for name, metric in self.averages.items()}
        with torch.inference_mode(False):  # else what is left could not be used outside of it
            for metric in self.averages.values():
                metric.reset()
        values["perplexity"] = values["loss"].exp()
        values["bits_per_character"] = values["loss"] / math.log(2)
        return {name: value.item() for name, value in values.items()}
