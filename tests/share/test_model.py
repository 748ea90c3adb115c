"""namemlp.load: a checkpoint's model in Python."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import namemlp
from namemlp import NameModule, UserError
from tests.helpers import SMALL_LIST

PATH = Path("lightning_logs/version_0/checkpoints/last.ckpt")


def test_a_loaded_model_does_what_the_module_does(fit):
    fit(20)
    model, module = namemlp.load(PATH), NameModule.load_from_checkpoint(PATH)
    assert model.sample(20, seed=1, prefix="a") == module.sample(20, seed=1, prefix="a")
    assert model.sample(5, seed=2, novel=True) == module.sample(5, seed=2, novel=True)
    assert torch.equal(model.log_prob(SMALL_LIST), module.log_prob(SMALL_LIST))
    assert model.seen_in_training(["emma", "nobody"]) == [True, False]
    assert (str(model.vocabulary), model.context_length) == (str(module.vocabulary), 3)
    assert namemlp.load("last").sample(3, seed=1) == module.sample(3, seed=1)


def test_next_characters_are_those_of_the_network(fit):
    fit(20)
    model = namemlp.load(PATH)
    for name in ("emma", "a", "anna-lena"):
        following = [model.next_characters(name[:i]) for i in range(len(name) + 1)]
        for probabilities in following:
            assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
            assert sum(probabilities.values()) == pytest.approx(1, rel=1e-5)
        product = math.prod(probabilities[text] for probabilities, text in zip(following, [*name, ""], strict=True))
        assert math.log(product) == pytest.approx(model.log_prob([name]).item(), rel=1e-5)
    with pytest.raises(UserError, match="prefix 'x' has 1 character that the model does not know: 'x'"):
        model.next_characters("x")


def test_load_needs_no_lightning(fit):
    fit(5)
    code = "import namemlp, sys; namemlp.load('last').sample(1); "
    code += "print([name for name in sys.modules if name.startswith('lightning')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_load_of_what_is_no_checkpoint(folder):
    with pytest.raises(UserError, match=r"none\.ckpt: no such file"):
        namemlp.load("none.ckpt")
