"""A new run that starts from the weights of another model."""

from pathlib import Path

import numpy as np

from namemlp.errors import UserError
from namemlp.module import NameModule
from namemlp.network import NameMLP
from namemlp.runs.reading import open_checkpoint

SIZES = ("context_length", "embedding_dim", "hidden_size")


def copy_weights(module: NameModule, selector: str, root: Path) -> str:
    """Copy the weights of a checkpoint, of a character those that stand for it; returns a sentence on what was copied.

    Characters that the checkpoint does not know keep their initial weights. What the checkpoint was trained on counts
    as known. Raises: UserError: the sizes differ, or one of both has another network than mlp.
    """
    try:
        path, checkpoint = open_checkpoint(selector, root, is_fit=False, command="fit")
    except UserError as error:  # which names the usual option
        raise type(error)(str(error).replace("--ckpt_path", "--init_from")) from error
    ours, theirs, state = module.hparams, checkpoint["hyper_parameters"], checkpoint["state_dict"]
    if type(module.network) is not NameMLP or theirs.get("network", "mlp") != "mlp":
        raise UserError(f"init_from {path}: both models must have the network mlp")
    differences = [
        f"model.{name} is {ours[name]} here but {theirs[name]}" for name in SIZES if ours[name] != theirs[name]
    ]
    if differences:
        raise UserError(f"init_from: {'; '.join(differences)} in {path}: match it")
    row_of = {character: row for row, character in enumerate(["", *theirs["vocabulary"][1:]])}  # "": the end mark
    pairs = [(i, row_of[c]) for i, c in enumerate(["", *str(module.vocabulary)[1:]]) if c in row_of]
    here, there = (list(rows) for rows in zip(*pairs, strict=True))
    for name, weights in module.state_dict().items():
        saved = state[name].to(weights.dtype)
        if name.startswith("network.hidden"):
            weights.copy_(saved)
        else:  # embedding and output have a row for each character
            weights[here] = saved[there]
    module.training_names = np.unique(checkpoint["training_names"].numpy())
    new = len(module.vocabulary) - len(pairs)
    return f"weights of {path}, for {len(pairs)} of {len(module.vocabulary)} characters" + f"; {new} start new" * (
        new > 0
    )
