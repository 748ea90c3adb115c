"""A run that is stopped and resumed ends with the very weights of one that was not."""

import pytest
import torch

EPOCH = 12  # updates in an epoch of the small list


def final(run):
    return torch.load(f"lightning_logs/version_{run}/checkpoints/last.ckpt", weights_only=True)


def assert_equal(ours, theirs):
    """Two checkpoints, down to the last bit of weights and optimizer states."""
    assert ours["global_step"] == theirs["global_step"]
    for name, weights in ours["state_dict"].items():
        assert torch.equal(weights, theirs["state_dict"][name]), name
    assert str(ours["optimizer_states"]) == str(theirs["optimizer_states"])
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]


@pytest.mark.parametrize("stop", [1, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 30])
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("--data.replacement=true",),
        ("--optimizer.momentum=0.9",),
        (
            "--optimizer=AdamW",
            "--lr_scheduler=OneCycleLR",
            "--lr_scheduler.max_lr=0.01",
            "--lr_scheduler.total_steps=99",
        ),
    ],
    ids=["sgd", "replacement", "momentum", "adamw-onecycle"],
)
def test_resume_is_exact(fit, stop, settings):
    fit(40, *settings)
    fit(stop, *settings)
    fit(40, *settings, "--ckpt_path=last")
    assert_equal(final(1), final(0))


def test_resume_is_exact_again_and_again(fit):
    fit(40)
    fit(3)
    for step in (4, EPOCH, 20, 2 * EPOCH, 2 * EPOCH + 1, 40):
        fit(step, "--ckpt_path=last")
    assert_equal(final(1), final(0))


def test_resume_is_exact_with_workers(fit):
    fit(20)
    fit(5, "--data.num_workers=2")
    fit(20, "--data.num_workers=2", "--ckpt_path=last")
    assert_equal(final(1), final(0))


@pytest.mark.parametrize("epochs", [1, 2])
def test_resume_is_exact_where_epochs_are_counted(fit, epochs):
    fit(-1, "--trainer.max_epochs=3")
    assert final(0)["global_step"] == 3 * EPOCH
    fit(-1, f"--trainer.max_epochs={epochs}")
    fit(-1, "--trainer.max_epochs=3", "--ckpt_path=last")
    assert_equal(final(1), final(0))
