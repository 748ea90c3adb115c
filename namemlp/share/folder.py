"""A trained model as a folder for developers: weights and settings in standard forms, a model card, and a script."""

import json
import shlex
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

from namemlp.corpus import Splits
from namemlp.errors import UserError
from namemlp.runs import flatten, hparams_from_checkpoint
from namemlp.share.model import Model, check_mlp, compare_losses

FORMAT_VERSION, NUM_SAMPLES, SEED = 1, 20, 1


def export_folder(model: Model, splits: Splits | None, folder: Path) -> None:
    """Write model.safetensors, config.json, README.md and model.py. Raises: UserError: a package is missing."""
    check_mlp(model)
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError("--to folder needs the package safetensors: pip install 'namemlp[export]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().float().contiguous() for name, p in model.network.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    network = model.network
    config = {"format_version": FORMAT_VERSION, "network": "mlp", "vocabulary": ["", *str(model.vocabulary)[1:]]}
    config |= {"context_length": model.context_length, "embedding_dim": network.embedding.embedding_dim}
    config["hidden_size"] = network.hidden.out_features
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    script = (files("namemlp.share") / "standalone.py").read_text(encoding="utf-8")
    (folder / "model.py").write_text(script, encoding="utf-8")
    (folder / "README.md").write_text(describe(model, splits), encoding="utf-8")


def describe(model: Model, splits: Splits | None) -> str:
    """The model card."""
    size = sum(p.numel() for p in model.network.parameters())
    settings = {"parameters": f"{size:,}", "context": f"{model.context_length} characters"}
    if checkpoint := model.checkpoint:
        data = checkpoint.get("datamodule_hyper_parameters", {})
        path, optimizer = data.get("path"), checkpoint["hyper_parameters"]["optimizer"]
        settings |= {
            "list": "namemlp's bundled list of given names" if path is None else PurePath(path).name,
            "SHA-256 of its names": f"`{checkpoint.get('NamesDataModule', {}).get('sha256')}`",
            "split": f"{list(data.get('split', ()))}, {data.get('shuffles')} shuffles, seed {data.get('split_seed')}, "
            f"repeated names: {data.get('duplicates', 'keep')}",
            "training": f"{checkpoint['global_step']:,} steps of {data.get('batch_size')}, seed {data.get('seed')}",
            "optimizer": f"`{json.dumps(optimizer)}`",
        }
        settings["command"] = f"`{fit_command(checkpoint)}`"
    settings["versions"] = ", ".join(f"{name} {version(name)}" for name in ("namemlp", "torch", "lightning"))
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    names = "\n".join(f"- {escape(name)}" for name in model.sample(NUM_SAMPLES, seed=SEED))
    losses = ""
    if splits is not None and (compared := compare_losses(model, splits)):
        losses = "## Losses\n\nMean cross-entropy in nats per character.\n\n| | train | val | test |\n| --- "
        losses += "| ---: " * 3 + "|\n"
        for who, values in compared.items():
            losses += f"| {who} | {' | '.join(f'{loss:.4f}' for loss in values)} |\n"
    return f"""---
library_name: namemlp
pipeline_tag: text-generation
tags:
- character-level
- names
---

# A model of names

It reads the last {model.context_length} characters of a name and predicts the next one (Bengio et al. 2003); trained by
namemlp. `python model.py 20 1` prints twenty names with torch and safetensors alone; `config.json` has the character of
each id.

| | |
| --- | --- |
{rows}
{losses}
## Names that it draws

{names}

## Use

The names are made up, but may be those of people, also of people in the list; do not take them for anybody's. The names
stand for the people of the list and for nobody else.
"""


def fit_command(checkpoint: dict[str, Any]) -> str:
    """The command that trains such a model, with all settings that are not null."""
    settings = flatten(hparams_from_checkpoint(checkpoint))
    del settings["data.vocabulary"]  # that of the list
    options = {"optimizer": settings.pop("optimizer.class_path", None)}  # the class before its settings
    options |= {"lr_scheduler": settings.pop("lr_scheduler.class_path", None)}
    options |= {name.replace(".init_args", ""): value for name, value in settings.items()}
    given = {name: value for name, value in options.items() if value is not None}
    given["trainer.max_steps"] = checkpoint["global_step"]
    arguments = [
        f"--{name}={json.dumps(value) if not isinstance(value, str) else value}" for name, value in given.items()
    ]
    return shlex.join(["python", "-m", "namemlp", "fit", *arguments])


def escape(text: str) -> str:  # of Markdown
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>()#+-.!|&" else character for character in text)
