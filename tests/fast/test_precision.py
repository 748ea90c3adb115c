"""Every precision trains, and resumes from its checkpoint to the last bit."""

import math

import pytest
import torch

from namemlp.module import split_metrics, update_metrics
from tests.helpers import assert_equal, curves

LAST = "lightning_logs/version_{}/checkpoints/last.ckpt"
GPU_ONLY = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=GPU_ONLY)])
@pytest.mark.parametrize(("optimizer", "lr"), [("SGD", 0.3), ("AdamW", 0.03)])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"])
def test_every_precision_trains_and_resumes_exactly(fit, precision, optimizer, lr, accelerator):
    settings = (f"--optimizer={optimizer}", f"--optimizer.lr={lr}", "--model.init=scaled", "--model.dropout=0.2")
    settings += (f"--trainer.precision={precision}", f"--trainer.accelerator={accelerator}")
    fit(30, *settings)
    fit(17, *settings)
    fit(30, *settings, "--ckpt_path=last")
    whole, resumed = (torch.load(LAST.format(run), weights_only=True) for run in (0, 1))
    assert_equal(resumed, whole)
    assert whole["trainer"]["precision"] == (
        "bf16-mixed" if (precision, accelerator) == ("16-mixed", "cpu") else precision
    )
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert {weights.dtype for weights in whole["state_dict"].values()} == {dtype}
    losses = list(curves("lightning_logs/version_0")["train/loss"].values())
    assert losses[-1] < losses[0] - 0.3


def test_accelerator_auto_takes_a_gpu_if_there_is_one(fit):
    out = fit(3, "--trainer.accelerator=auto").out
    assert f"parameters on {'cuda:0' if torch.cuda.is_available() else 'cpu'}" in out


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def dtype(request):
    """A precision, in which new tensors are, as they are in the steps of a Trainer of that precision."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_metrics_are_means_over_all_examples_in_any_precision(dtype):
    metrics = split_metrics(torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):  # the second time after a reset
        logits = torch.randn(5000, 27, generator=generator, dtype=torch.float32)
        logits *= torch.linspace(0, 4, 5000, dtype=torch.float32)[:, None]  # ever larger losses
        logits, y = logits.to(dtype), torch.randint(27, (5000,), generator=generator)
        for part in torch.arange(5000).split(30):
            update_metrics(metrics, logits[part], y[part])
        expected = torch.nn.functional.cross_entropy(logits.double(), y).item()
        assert metrics["loss"].compute().item() == pytest.approx(expected, rel=1e-4)
        assert metrics["perplexity"].compute().item() == pytest.approx(math.exp(expected), rel=1e-3)
        is_hit = logits.double().argmax(1) == y
        assert metrics["top1"].compute().item() == pytest.approx(is_hit.double().mean().item(), abs=2e-3)  # ties count
        for metric in metrics.values():
            metric.reset()
