"""fit --init_from: a new run from the weights of a model, also of another list."""

from pathlib import Path

import pytest
import torch

from namemlp import NameModule
from tests.helpers import SMALL

OTHER = ["xenia", "emma", "anna", "quirin", "zoë", "olaf"] * 12  # has x and q, which the first list lacks
FIRST = "lightning_logs/version_0/checkpoints/last.ckpt"


@pytest.fixture
def other(fit):
    fit(50)
    Path("other.txt").write_text("\n".join(OTHER), encoding="utf-8")
    return "--data.path=other.txt"


def fit_other(namemlp, *args, steps=1):
    return namemlp("fit", *SMALL, "--optimizer.lr=0", f"--trainer.max_steps={steps}", *args)


def test_weights_are_those_of_the_characters(other, namemlp):
    result = fit_other(namemlp, other, f"--init_from={FIRST}")
    assert (result.code, result.err) == (0, "")
    ours = NameModule.load_from_checkpoint("lightning_logs/version_1/checkpoints/last.ckpt")
    theirs = NameModule.load_from_checkpoint(FIRST)
    fresh = NameModule(str(ours.vocabulary), hidden_size=20)
    known = [c for c in str(ours.vocabulary) if c in str(theirs.vocabulary)]
    sentence = f"weights of {FIRST}, for {len(known)} of {len(ours.vocabulary)} characters; "
    assert f"{sentence}{len(ours.vocabulary) - len(known)} start new\n" in result.out
    for i, character in enumerate(str(ours.vocabulary)):
        source, row = (theirs, str(theirs.vocabulary).find(character)) if character in known else (fresh, i)
        for part in ("embedding.weight", "output.weight", "output.bias"):
            assert torch.equal(ours.state_dict()[f"network.{part}"][i], source.state_dict()[f"network.{part}"][row])
    for part in ("hidden.weight", "hidden.bias"):
        assert torch.equal(ours.state_dict()[f"network.{part}"], theirs.state_dict()[f"network.{part}"])
    assert ours.seen_in_training(["olivia", "xenia", "nobody"]) == [True, True, False]  # names of both lists


def test_the_same_list_goes_on_from_the_same_losses(fit, namemlp):
    first = fit(50)
    again = fit_other(namemlp, "--data.path=names.txt", "--init_from=last")
    table = [
        [line for line in out.splitlines() if line.startswith(("train ", "val "))] for out in (first.out, again.out)
    ]
    assert table[0] == table[1]
    assert len(table[0]) == 2


def test_a_resumed_run_does_not_start_again(other, namemlp):
    settings = (other, f"--init_from={FIRST}")
    fit_other(namemlp, *settings, steps=5)
    config = "--config=lightning_logs/version_1/config.yaml"
    assert f"init_from: {FIRST}" in Path("lightning_logs/version_1/config.yaml").read_text()
    Path(FIRST).unlink()
    result = namemlp(
        "fit", config, "--ckpt_path=lightning_logs/version_1/checkpoints/last.ckpt", "--trainer.max_steps=9"
    )
    assert (result.code, result.err) == (0, "")
    assert "weights of" not in result.out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["--model.hidden_size=30", "--model.context_length=4"],
            "init_from: model.context_length is 4 here but 3; model.hidden_size is 30 here but 20 "
            f"in {FIRST}: match it",
        ),
        (
            ["--init_from=none.ckpt"],
            "--init_from none.ckpt: no such file; give a .ckpt file, or last for the newest run's last one",
        ),
    ],
)
def test_what_cannot_be_started_from(other, namemlp, args, sentence):
    result = fit_other(namemlp, other, f"--init_from={FIRST}", *args)
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")
    assert not Path("lightning_logs/version_1").exists()
