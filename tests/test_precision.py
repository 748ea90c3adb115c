"""Every precision trains, and goes on from its checkpoint to the last bit."""

import pytest
import torch

from namemlp.metrics import NameMetrics
from tests.conftest import assert_equal, curves

LAST = "lightning_logs/version_{}/checkpoints/last.ckpt"
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=ON_A_GPU)])
@pytest.mark.parametrize(("optimizer", "rate"), [("SGD", 0.3), ("AdamW", 0.03)])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed"])
def test_every_precision_trains_and_goes_on_exactly(fit, precision, optimizer, rate, accelerator):
    settings = (f"--optimizer={optimizer}", f"--optimizer.lr={rate}", "--model.init=scaled", "--model.dropout=0.2")
    settings += (f"--trainer.precision={precision}", f"--trainer.accelerator={accelerator}")
    fit(30, *settings)
    fit(17, *settings)
    fit(30, *settings, "--ckpt_path=last")
    straight, resumed = (torch.load(LAST.format(run), weights_only=True) for run in (0, 1))
    assert_equal(resumed, straight)
    assert straight["trainer"]["precision"] == (
        "bf16-mixed" if (precision, accelerator) == ("16-mixed", "cpu") else precision
    )
    of_weights = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert {weights.dtype for weights in straight["state_dict"].values()} == {of_weights}
    losses = list(curves("lightning_logs/version_0")["train/loss"].values())
    assert losses[-1] < losses[0] - 0.3


def test_auto_takes_what_is_there(fit):
    out = fit(3, "--trainer.accelerator=auto").out
    assert f"parameters on {'cuda:0' if torch.cuda.is_available() else 'cpu'}" in out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_averages_are_those_of_all_examples_in_any_precision(dtype):
    metrics = torch.nn.ModuleDict({"metrics": NameMetrics()}).to(dtype)["metrics"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):  # the second time after they have been forgotten
        logits = torch.randn(5000, 27, generator=generator) * torch.linspace(0, 4, 5000)[:, None]  # ever larger losses
        logits, y = logits.to(dtype), torch.randint(27, (5000,), generator=generator)
        for part in torch.arange(5000).split(30):
            metrics.update(logits[part], y[part])
        expected = torch.nn.functional.cross_entropy(logits.double(), y).item()
        assert metrics.compute()["loss"] == pytest.approx(expected, rel=1e-4)
