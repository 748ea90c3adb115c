"""Every precision trains, and goes on from its checkpoint to the last bit."""

import pytest
import torch

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
