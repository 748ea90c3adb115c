"""The folder and the ONNX file of a model, read by programs that do not know this package."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import namemlp as package
from namemlp.share import Model

ALONE = """
import runpy, sys
for name in ("namemlp", "lightning", "torchmetrics"):
    sys.modules[name] = None  # an import of it fails
sys.argv = ["model.py", "4", "7"]
names = runpy.run_path("names/model.py", run_name="__main__")
"""


@pytest.fixture
def export(fit, namemlp):
    fit(50, "--optimizer.lr=0.1", "--model.init=scaled")

    def run(to):
        result = namemlp("export", "--ckpt_path=last", f"--to={to}")
        assert (result.code, result.err) == (0, "")
        return result.out.strip(), package.load("last")

    return run


def test_folder_is_loaded_by_torch_and_safetensors_alone(export):
    folder, model = export("folder")
    assert folder == "names"
    assert sorted(path.name for path in Path(folder).iterdir()) == [
        *("README.md", "config.json", "model.py", "model.safetensors")
    ]
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4
    config = json.loads(Path("names/config.json").read_text(encoding="utf-8"))
    assert config["vocabulary"] == ["", *str(model.vocabulary)[1:]]
    assert (config["format_version"], config["context_length"], config["hidden_size"]) == (1, 3, 20)
    from namemlp.share.standalone import load

    network, _ = load(Path(folder))
    contexts = torch.randint(len(config["vocabulary"]), (100, 3))
    assert torch.equal(network(contexts), model.network(contexts))
    assert len(Path("names/model.py").read_text().splitlines()) <= 60


def test_model_card_says_what_the_model_is(export, namemlp):
    _, model = export("folder")
    card = Path("names/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: namemlp\npipeline_tag: text-generation\ntags:\n")
    checkpoint = torch.load("lightning_logs/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["NamesDataModule"]["sha256"] in card
    assert "| list | names.txt |" in card
    assert "| training | 50 steps of 32, seed 2147483647 |" in card
    assert "| this model | " in card
    assert "| counting (" in card
    command = re.search(r"\| command \| `python -m namemlp (.*)` \|", card)[1]
    result = namemlp(*shlex.split(command), "--print_config")  # which it understands
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["optimizer"]["init_args"]["lr"] == 0.1
    assert (config["model"]["hidden_size"], config["trainer"]["max_steps"]) == (20, 50)
    for name in model.sample(20, seed=1):
        assert name.replace("-", "\\-") in card


def test_export_in_python_is_the_command(export, namemlp):
    path, model = export("html")
    page = Path(path).read_text(encoding="utf-8")
    data = package.NamesDataModule("names.txt")
    assert package.export(model, output="again.html", splits=data.splits) == Path("again.html")
    assert Path("again.html").read_text(encoding="utf-8") == page
    module = package.NameModule("..ab", hidden_size=4)
    untrained = Model(module.network, module.vocabulary, 3)
    assert package.export(untrained, to="folder", output="untrained").is_dir()
    with pytest.raises(package.UserError, match="to is 'pdf': it must be html, folder or onnx"):
        package.export(untrained, to="pdf")
    other = Model(torch.nn.Identity(), module.vocabulary, 3)
    with pytest.raises(package.UserError, match="export knows the network mlp only"):
        package.export(other)


def test_onnx_file_has_the_logits_and_the_vocabulary(export):
    path, model = export("onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["vocabulary"]) == ["", *str(model.vocabulary)[1:]]
    assert metadata["context_length"] == "3"
    for batch_size in (1, 7):
        contexts = np.random.default_rng(0).integers(0, len(model.vocabulary), (batch_size, 3))
        [logits] = session.run(None, {"ids": contexts})
        expected = model.network(torch.from_numpy(contexts)).detach().numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("to", "package", "sentence"),
    [
        ("folder", "safetensors.torch", "the package safetensors: pip install 'namemlp[export]'"),
        ("onnx", "onnxruntime", "the packages onnx and onnxruntime: pip install 'namemlp[onnx]'"),
    ],
)
def test_a_missing_package_is_named(fit, namemlp, monkeypatch, to, package, sentence):
    fit(5)
    monkeypatch.setitem(sys.modules, package, None)
    result = namemlp("export", "--ckpt_path=last", f"--to={to}")
    assert (result.code, result.err) == (2, f"namemlp: error: --to {to} needs {sentence}\n")
