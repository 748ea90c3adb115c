"""Checkpoints by Lightning's own means: saved at any time, loaded from anywhere, resumed to the last bit."""

import copy
import io
import pickle
import signal
import threading
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint

from namemlp import NameModule, NamesDataModule, UserError
from tests.helpers import OneCycle
from tests.usage.conftest import EPOCH, is_equal, make_data, make_module, make_trainer, plain_loaders, weights

COSINE = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 40}}
KINDS = {
    "sgd": (NameModule, dict(lr_scheduler=COSINE)),
    "adam, dropout": (NameModule, dict(optimizer="AdamW", dropout=0.3, lr_scheduler=COSINE)),
    "one cycle": (OneCycle, {}),
}


def run(path, folder, kind, ckpt_path=None, seed=1, with_loaders=False, saves=None, **settings):
    torch.manual_seed(seed)
    data, (kind, arguments) = make_data(), KINDS[kind]
    module = make_module(data, kind, **arguments)
    saver = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", **(saves or {"every_n_train_steps": 7}))
    settings = {"max_epochs": 3, "enable_checkpointing": True, **settings}
    trainer = make_trainer(path, callbacks=[saver], **settings)
    given = (data.train_dataloader(), data.val_dataloader()) if with_loaders else (data,)
    trainer.fit(module, *given, ckpt_path=ckpt_path)
    return module, trainer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_loaders", [False, True], ids=["data module", "loaders"])
@pytest.mark.parametrize("settings", [{}, dict(limit_train_batches=9), dict(val_check_interval=7)], ids=str)
def test_resume_by_api_alone_is_exact(path, kind, with_loaders, settings):
    whole, trainer = run(path, "a", kind, with_loaders=with_loaders, **settings)
    files = sorted(Path("a").iterdir())
    assert len(files) == trainer.global_step // 7
    for file in files[:-1]:
        resumed, again = run(path, "b", kind, file, seed=2, with_loaders=with_loaders, **settings)
        assert (again.global_step, again.current_epoch) == (trainer.global_step, trainer.current_epoch)
        assert is_equal(weights(resumed), weights(whole)), file


@pytest.mark.parametrize(
    "saves", [dict(save_on_train_epoch_end=True), dict(save_on_train_epoch_end=False), dict(every_n_train_steps=EPOCH)]
)
@pytest.mark.parametrize("end", [dict(max_steps=30, max_epochs=-1), dict(max_steps=30, max_epochs=5), {}], ids=str)
def test_resume_between_two_epochs_is_exact(path, saves, end):
    whole, trainer = run(path, "a", "adam, dropout", saves=saves, **end)
    resumed, again = run(path, "b", "adam, dropout", f"a/step={EPOCH}.ckpt", seed=2, saves=saves, **end)
    assert (again.global_step, again.current_epoch) == (trainer.global_step, trainer.current_epoch)
    assert is_equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    "hook", ["on_train_epoch_start", "on_train_epoch_end", "on_train_batch_end", "on_validation_end"]
)
def test_a_checkpoint_of_any_hook_is_resumed_exactly(path, hook):
    class Save(Callback):
        runs_in_blocks = True

        def save(self, trainer):
            if EPOCH <= trainer.global_step < 2 * EPOCH and not Path("any.ckpt").exists():
                trainer.save_checkpoint("any.ckpt")

    setattr(Save, hook, lambda self, trainer, *_: self.save(trainer))
    settings = dict(max_epochs=3, enable_checkpointing=True)

    def fit(ckpt_path=None, callbacks=(), seed=1):
        torch.manual_seed(seed)
        data = make_data()
        module = make_module(data, dropout=0.2)
        make_trainer(path, callbacks=list(callbacks), **settings).fit(module, datamodule=data, ckpt_path=ckpt_path)
        return weights(module)

    whole = fit(callbacks=[Save()])
    assert is_equal(fit("any.ckpt", seed=2), whole)


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_can_be_saved_after_anything(path, method):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path)
    data.setup("predict")
    getattr(trainer, method)(module, datamodule=data)
    trainer.save_checkpoint("any.ckpt")
    assert is_equal(weights(NameModule.load_from_checkpoint("any.ckpt")), weights(module))


def test_fast_dev_run_and_weights_only(path):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path, fast_dev_run=2)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint("any.ckpt", weights_only=True)
    assert is_equal(weights(NameModule.load_from_checkpoint("any.ckpt")), weights(module))


class OtherData(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.data = make_data()

    def train_dataloader(self):
        return plain_loaders(self.data)[0]

    def val_dataloader(self):
        return plain_loaders(self.data)[1]


@pytest.mark.parametrize("given", ["plain loaders", "our loaders", "another data module"])
def test_any_checkpoint_of_a_name_module_is_loaded_and_resumed(path, given):
    class Stateful(Callback):
        def state_dict(self):
            return {"anything": [1, {"a": torch.ones(2)}], "best_model_path": "/elsewhere"}

    data = make_data()
    arguments = {
        "plain loaders": plain_loaders(data),
        "our loaders": (data.train_dataloader(), data.val_dataloader()),
        "another data module": (OtherData(),),
    }[given]
    module = make_module(data)
    trainer = make_trainer(path, callbacks=[Stateful(), EarlyStopping("val/loss", patience=99)])
    trainer.fit(module, *arguments)
    trainer.save_checkpoint("any.ckpt")
    content = Path("any.ckpt").read_bytes()
    for source in ("any.ckpt", Path("any.ckpt"), io.BytesIO(content)):
        again = NameModule.load_from_checkpoint(source, map_location="cpu")
        assert is_equal(weights(again), weights(module))
        assert again.sample(3, seed=1) == module.sample(3, seed=1)
    resumed = make_trainer(path, max_epochs=3)
    resumed.fit(make_module(data), *arguments, ckpt_path="any.ckpt")
    assert resumed.global_step == 3 * EPOCH


def test_settings_can_be_given_when_loading(path):
    data = make_data()
    module, trainer = make_module(data), make_trainer(path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint("any.ckpt")
    again = NameModule.load_from_checkpoint("any.ckpt", optimizer="Adam")
    assert type(again.configure_optimizers()) is torch.optim.Adam


def test_a_file_that_is_no_checkpoint_is_one_sentence(folder):
    Path("none.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none\.ckpt is not a checkpoint of namemlp, or it is damaged"):
        NameModule.load_from_checkpoint("none.ckpt")
    with pytest.raises(UserError, match=r"missing\.ckpt: no such file"):
        NameModule.load_from_checkpoint("missing.ckpt")


class Interrupt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step >= self.step:
            signal.raise_signal(signal.SIGINT)

    runs_in_blocks = True


@pytest.mark.parametrize("step", [1, 5, EPOCH, 17])
def test_after_ctrl_c_the_counts_are_those_of_the_steps_made(path, step):
    data, seen = make_data(), []
    module = make_module(data)

    class Save(Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint("interrupted.ckpt")

    trainer = make_trainer(path, max_epochs=3, enable_checkpointing=True, callbacks=[Interrupt(step), Save()])
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        trainer.fit(module, datamodule=data)
    checkpoint = torch.load("interrupted.ckpt", weights_only=True)
    steps = checkpoint["global_step"]
    assert steps == trainer.global_step >= step
    loops = checkpoint["loops"]["fit_loop"]
    assert loops["epoch_loop.batch_progress"]["total"]["processed"] == steps
    plain = make_module(data)
    make_trainer(path, max_epochs=-1, max_steps=steps).fit(plain, datamodule=data)
    assert is_equal(weights(module), weights(plain)), seen


def test_on_exception_checkpoint(path):
    class Failing(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise ZeroDivisionError

    data = make_data()
    callbacks = [OnExceptionCheckpoint(".", "failed"), Failing()]
    with pytest.raises(ZeroDivisionError):
        make_trainer(path, callbacks=callbacks, enable_checkpointing=True).fit(make_module(data), datamodule=data)
    assert torch.load("failed.ckpt", weights_only=True)["global_step"] == EPOCH
    NameModule.load_from_checkpoint("failed.ckpt")


def test_a_module_and_its_data_can_be_copied_and_pickled_in_training(path):
    class Copying(Callback):
        def on_validation_end(self, trainer, pl_module):
            assert is_equal(weights(copy.deepcopy(pl_module)), weights(pl_module))
            pickle.loads(pickle.dumps(pl_module))

    data = make_data()
    make_trainer(path, callbacks=[Copying()]).fit(make_module(data), datamodule=data)


def test_fit_in_a_thread(path):
    errors = []

    def fit():
        try:
            data = make_data()
            make_trainer(path).fit(make_module(data), datamodule=data)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert not errors


def test_the_data_module_of_a_checkpoint(path):
    data = NamesDataModule("names.txt", batch_size=16)
    trainer = make_trainer(path)
    data.setup("fit")
    trainer.fit(make_module(data), datamodule=data)
    trainer.save_checkpoint("any.ckpt")
    assert NamesDataModule.load_from_checkpoint("any.ckpt").hparams.batch_size == 16
