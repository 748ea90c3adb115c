"""The program starts without torch's compiler, and nothing is lost by it."""

import subprocess
import sys

COMPILED = """
import sys
sys.argv = ["namemlp", "--help"]
from namemlp.__main__ import main
try:
    main()
except SystemExit:
    pass
assert "torch._dynamo" not in sys.modules
import torch
from lightning.pytorch.utilities.compile import from_compiled
from namemlp import NameModule
model = NameModule(".ab")
compiled = torch.compile(model, backend="eager")
x = torch.tensor([[0, 1, 2]])
assert torch.equal(compiled(x), model(x))
assert from_compiled(compiled) is model  # Lightning knows it, by a class that it imported before there was one
optimizer = torch.optim.Adam(model.parameters())
compiled(x).sum().backward()
torch.compile(optimizer.step, backend="eager")()
optimizer.zero_grad()
print("compiled")
"""


def run(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fit_in_blocks_never_imports_the_compiler(folder):
    code = "import sys; from namemlp.__main__ import main; main(); print('torch._dynamo' in sys.modules)"
    fit = ("fit", "--data.path=names.txt", "--trainer.accelerator=cpu", "--trainer.max_steps=20")
    assert run(code, *fit).endswith("False\n")


def test_models_can_still_be_compiled():
    assert run(COMPILED).endswith("compiled\n")


def test_importing_the_library_changes_nothing_in_torch():
    code = "import namemlp, torch, sys; namemlp.NameModule; import torch._dynamo as d; print(d.config.__name__)"
    assert run(code) == "torch._dynamo.config\n"


def test_an_import_that_needs_more_of_the_compiler_gets_it():
    code = "from namemlp.startup import quick_imports\nwith quick_imports():\n    import torch._dynamo as dynamo\n"
    assert run(code + "    print(dynamo.config.__name__)") == "torch._dynamo.config\n"
