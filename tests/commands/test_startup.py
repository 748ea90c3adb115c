"""What importing the library and starting a command loads."""

import subprocess
import sys

import pytest
import torch

import namemlp as package


def run(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_sample_and_plot_do_not_import_lightning(fit):
    fit(5)
    code = "import sys; from namemlp.__main__ import main; main(); sys.argv[1] = 'plot'; main(); "
    code += "print([name for name in sys.modules if name.startswith(('lightning', 'torchmetrics'))], file=sys.stderr)"
    done = run(code, "sample", "--ckpt_path=last")
    assert len(done.stdout.splitlines()) == 20 + 5  # names, and paths of figures
    assert done.stderr == "[]\n"


def test_importing_the_library_loads_its_parts_on_first_use():
    done = run("import namemlp, sys; print(dir(namemlp)); print('torch' in sys.modules)")
    assert done.stdout.splitlines() == [str(sorted([*package.__all__, "__version__"])), "False"]
    names = {}
    exec("from namemlp import *", names)
    assert names.keys() >= set(package.__all__)


def test_public_names():
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'namemlp' has no attribute 'Nope'"):
        _ = package.Nope


def test_models_can_be_compiled():
    model, x = package.NameModule(".ab"), torch.tensor([[0, 1, 2]])
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), model(x))
    optimizer = torch.optim.Adam(model.parameters())
    compiled(x).sum().backward()
    torch.compile(optimizer.step, backend="eager")()
