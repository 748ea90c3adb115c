"""oneDNN makes large products of float32 matrices during fit alone, and only where its error is that of float32."""

import pytest
import torch
from lightning import Callback, Trainer

from namemlp import NameModule, NamesDataModule
from namemlp.fast.matmul import FastMatmul, is_onednn_exact

FLAG = torch.backends.mkldnn.matmul
NEEDS_ONEDNN = pytest.mark.skipif(
    not is_onednn_exact(), reason="oneDNN rounds float32 products on this CPU, or is absent"
)


class Recorder(Callback):
    """What the flag is at steps and validations."""

    def __init__(self, error=None):
        self.seen, self.error = {}, error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["train"] = FLAG.fp32_precision
        if self.error:
            raise self.error

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["val"] = FLAG.fp32_precision


def fit(hidden_size=20, batch_size=32, eval_batch_size=32, error=None, callbacks=()):
    data = NamesDataModule("names.txt", batch_size=batch_size, eval_batch_size=eval_batch_size)
    model = NameModule(data.vocabulary.characters, hidden_size=hidden_size)
    recorder = Recorder(error)
    settings = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    settings |= dict(max_steps=2, val_check_interval=1, accelerator="cpu", callbacks=[recorder, *callbacks])
    Trainer(num_sanity_val_steps=0, **settings).fit(model, data)
    return recorder.seen


def test_its_error_is_that_of_float32_where_it_is_taken():
    a, b = torch.randn(512, 300), torch.randn(300, 400)
    exact = a.double() @ b.double()
    errors = []
    for FLAG.fp32_precision in ("none", "bf16"):
        errors.append((a @ b - exact).abs().max().item())
    FLAG.fp32_precision = "none"
    assert (errors[1] < 3 * errors[0]) or not is_onednn_exact()


@NEEDS_ONEDNN
def test_large_products_take_it_during_fit_alone(folder):
    assert fit(hidden_size=20) == {"train": "none", "val": "none"}
    assert fit(hidden_size=50_000) == {"train": "bf16", "val": "bf16"}
    assert FLAG.fp32_precision == "none"
    assert fit(hidden_size=4000, batch_size=1, eval_batch_size=50) == {"train": "none", "val": "bf16"}
    with pytest.raises(ZeroDivisionError):
        fit(hidden_size=50_000, error=ZeroDivisionError)
    assert FLAG.fp32_precision == "none"


def test_it_can_be_turned_off(folder):
    assert fit(hidden_size=50_000, callbacks=[FastMatmul(enabled=False)]) == {"train": "none", "val": "none"}
    FLAG.fp32_precision = "ieee"
    try:
        assert fit(hidden_size=50_000) == {"train": "ieee", "val": "ieee"}
        assert FLAG.fp32_precision == "ieee"
    finally:
        FLAG.fp32_precision = "none"


@NEEDS_ONEDNN
@pytest.mark.parametrize("value, flag", [("true", "bf16"), ("false", "none")])
def test_the_command_has_a_setting_for_it(namemlp, monkeypatch, value, flag):
    seen = []
    monkeypatch.setattr(NameModule, "on_validation_epoch_start", lambda _: seen.append(FLAG.fp32_precision))
    large = ["--model.hidden_size=4000", "--data.eval_batch_size=50", "--trainer.max_steps=2", "--data.path=names.txt"]
    assert namemlp("fit", *large, f"--fast_matmul={value}").code == 0
    assert seen == [flag] * 2
