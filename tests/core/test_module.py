import math

import pytest
import torch
from lightning import Trainer, seed_everything

from namemlp import FusedStrategy, NameModule, NamesDataModule, UserError
from namemlp.runs import FinalValidation

QUIET = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")


@pytest.fixture(params=["standard", "fused"])
def strategy(request):
    return "auto" if request.param == "standard" else FusedStrategy()


@pytest.fixture
def data(folder):
    data = NamesDataModule("names.txt", eval_batch_size=25)  # batches of unequal size
    data.setup("fit")
    return data


@pytest.fixture
def model(data):
    return NameModule(data.vocabulary.characters, hidden_size=20)


def by_hand(model, x, y):
    """The notebook's forward pass, and softmax and log written out, in double precision."""
    network = model.network
    C, W1, b1 = network.embedding.weight.double(), network.hidden.weight.T.double(), network.hidden.bias.double()
    W2, b2 = network.output.weight.T.double(), network.output.bias.double()
    logits = torch.tanh(C[x].reshape(len(x), -1) @ W1 + b1) @ W2 + b2
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return probabilities.detach(), -probabilities[torch.arange(len(y)), y].log().mean().item()


def test_loss_is_softmax_and_log_by_hand(model, data):
    x, y = data.train_set[:32]
    assert model.loss(x, y).item() == pytest.approx(by_hand(model, x, y)[1], rel=1e-5)


def test_metrics_are_averages_over_examples_not_over_batches(model, data):
    x, y = data.val_set[:]
    assert len(y) % 25 not in (0, 24)  # a smaller last batch, to which a mean over batches gives too much weight
    probabilities, loss = by_hand(model, x, y)
    ranks = probabilities.argsort(1, descending=True)
    expected = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_character": loss / math.log(2),
        "top1": (ranks[:, 0] == y).double().mean().item(),
        "top5": (ranks[:, :5] == y[:, None]).any(1).double().mean().item(),
    }
    for _ in range(2):  # the first evaluation leaves nothing behind
        assert model.evaluate(data.val_dataloader()) == pytest.approx(expected, rel=1e-5)

    trainer = Trainer(**QUIET)
    [validated] = trainer.validate(model, datamodule=data, verbose=False)
    assert validated == pytest.approx({f"val/{name}": value for name, value in expected.items()}, rel=1e-5)
    [tested] = trainer.test(model, dataloaders=data.val_dataloader(), verbose=False)
    assert tested == pytest.approx({f"test/{name}": value for name, value in expected.items()}, rel=1e-5)


def test_a_model_can_be_trained_after_evaluate(model, data, strategy):
    before = model.evaluate(data.val_dataloader())["loss"]
    Trainer(strategy=strategy, max_steps=20, **QUIET).fit(model, datamodule=data)
    assert model.evaluate(data.val_dataloader())["loss"] < before


def test_200_steps_are_those_of_the_notebook(model, data, strategy):
    C, W1, b1, W2, b2 = theirs = [p.detach().clone().requires_grad_() for p in model.parameters()]
    batches = []
    loader = data.train_dataloader()
    while len(batches) < 200:
        batches += list(loader)
    for x, y in batches[:200]:
        h = torch.tanh(C[x].view(len(x), -1) @ W1.T + b1)
        loss = torch.nn.functional.cross_entropy(h @ W2.T + b2, y)
        for p in theirs:
            p.grad = None
        loss.backward()
        for p in theirs:
            p.data += -0.01 * p.grad

    Trainer(strategy=strategy, max_steps=200, **QUIET).fit(model, datamodule=data)
    for p, q in zip(model.parameters(), theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "cls"),
    [(None, torch.optim.SGD), ({"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}}, torch.optim.AdamW)],
)
def test_any_optimizer(data, optimizer, cls):
    built = NameModule(data.vocabulary.characters, optimizer=optimizer).configure_optimizers()
    assert type(built) is cls
    assert built.param_groups[0]["lr"] == (0.003 if optimizer else 0.01)


def test_a_scheduler_is_stepped_once_per_step(data):
    halving = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 4, "gamma": 0.5}}
    model = NameModule(data.vocabulary.characters, lr_scheduler=halving)
    lrs = []
    model.on_train_batch_start = lambda *_: lrs.append(model.optimizers().param_groups[0]["lr"])
    Trainer(max_steps=9, **QUIET).fit(model, datamodule=data)
    assert lrs == [0.01] * 4 + [0.005] * 4 + [0.0025]


def test_a_plateau_scheduler_follows_the_validation_loss(data, strategy):
    plateau = {
        "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "val/loss", "patience": 0, "mode": "max"},
    }
    model = NameModule(data.vocabulary.characters, lr_scheduler=plateau)
    Trainer(strategy=strategy, max_epochs=3, **QUIET).fit(model, datamodule=data)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0001)


def test_invalid_settings_are_errors():
    for class_path in ("torch.optim.NoSuchClass", "namemlp.no_such_module.Adam", "subprocess.Popen", "Dropout"):
        with pytest.raises(UserError, match=f"{class_path} is not an imported Optimizer class"):
            NameModule(".ab", optimizer=class_path).configure_optimizers()
    with pytest.raises(UserError, match="hidden_size is 0"):
        NameModule(".ab", hidden_size=0)
    with pytest.raises(UserError, match="Invalid learning rate: -1"):
        sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": -1}}
        NameModule(".ab", optimizer=sgd).configure_optimizers()


def test_predict_gives_the_log_probability_of_each_next_character(model, data):
    data.setup("predict")
    predicted = torch.cat(Trainer(**QUIET).predict(model, datamodule=data))
    x, y = data.predict_set[:]
    probabilities = by_hand(model, x, y)[0]
    torch.testing.assert_close(predicted, probabilities[torch.arange(len(y)), y].log().float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("callbacks", "steps"), [([], [4, 8]), ([FinalValidation()], [4, 8, 10])])
def test_final_validation_makes_a_run_end_with_a_validation(model, data, strategy, callbacks, steps):
    validated = []
    model.on_validation_end = lambda: validated.append(model.trainer.global_step)
    settings = dict(val_check_interval=4, check_val_every_n_epoch=None, num_sanity_val_steps=0)
    Trainer(strategy=strategy, max_steps=10, callbacks=callbacks, **settings, **QUIET).fit(model, datamodule=data)
    assert validated == steps


def test_64_bit_training(data, strategy):
    seed_everything(1)
    model = NameModule(data.vocabulary.characters, hidden_size=20)
    Trainer(strategy=strategy, max_steps=3, precision="64-true", **QUIET).fit(model, datamodule=data)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
