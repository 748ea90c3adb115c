"""A trained model as one HTML page that works without a network, a server or an installation."""

import base64
import json
from importlib.resources import files
from pathlib import PurePath

import numpy as np
import torch

from namemlp.corpus import Splits
from namemlp.errors import UserError
from namemlp.network import eval_mode
from namemlp.share.model import Model, check_mlp, compare_losses
from namemlp.viz import arrange_embedding, character_classes

MAX_FLOAT32 = 10**6  # bytes of weights; larger models have float16 in their page
MAX_DIFFERENCE = 0.1  # of logits, between page and network


def export_html(model: Model, splits: Splits | None = None, with_known_names: bool = False) -> str:
    """The page of a model, with the losses of its list where that is given. Raises: UserError: it cannot be one."""
    network = model.network
    check_mlp(model)
    tensors = {
        "embedding": network.embedding.weight, "hidden": network.hidden.weight, "hidden_bias": network.hidden.bias,
        "output": network.output.weight, "output_bias": network.output.bias,
    }  # fmt: skip
    arrays = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    dtype = np.dtype("<f4" if sum(array.nbytes for array in arrays.values()) <= MAX_FLOAT32 else "<f2")
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    difference = largest_difference(model, arrays)
    if not difference <= MAX_DIFFERENCE:
        raise UserError(f"the logits of a page in {dtype.name} differ by {difference:.3g} from the model's: too much")
    title, shown, places, positions = arrange_embedding(tensors["embedding"], model.vocabulary.characters)
    kinds = character_classes(shown)
    path = model.checkpoint.get("datamodule_hyper_parameters", {}).get("path")
    data = {
        "characters": model.vocabulary.characters[1:],
        "context_length": model.context_length,
        "embedding_dim": network.embedding.embedding_dim,
        "hidden_size": network.hidden.out_features,
        "dtype": dtype.name,
        "weights": {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()},
        "map": [*zip(range(len(shown)), kinds, places.tolist(), positions.tolist(), strict=True)],
        "map_title": f"The network's {title}.",
        "list": "a list of given names" if path is None else f"the names of {PurePath(path).name}",
        "card": [*describe(model, splits), ["weights", f"{dtype.name}; logits differ by {difference:.1e}"]],
    }
    if with_known_names:  # their hashes
        data["known_names"] = base64.b64encode(model.training_names.astype("<i4").tobytes()).decode()
    text = json.dumps(data, separators=(",", ":"))  # ASCII alone
    for character in "<>&":  # so that nothing in it ends the script
        text = text.replace(character, f"\\u{ord(character):04x}")
    return (files("namemlp.share") / "page.html").read_text(encoding="utf-8").replace("MODEL_JSON", text)


def largest_difference(model: Model, arrays: dict[str, np.ndarray]) -> float:
    """By how much logits of a page differ at most from the network's, over random contexts."""
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randint(len(model.vocabulary), (2048, model.context_length), generator=generator)
    weights = {name: array.astype(np.float64) for name, array in arrays.items()}
    embedded = weights["embedding"][contexts.numpy()].reshape(len(contexts), -1)  # (B, T * C)
    hidden = np.tanh(embedded @ weights["hidden"].T + weights["hidden_bias"])  # (B, H)
    logits = hidden @ weights["output"].T + weights["output_bias"]  # (B, V)
    with eval_mode(model.network):
        return float(np.abs(logits - model.network(contexts).double().numpy()).max())


def describe(model: Model, splits: Splits | None) -> list[list[str]]:
    """What a page says about its model: rows of two texts."""
    size = f"{sum(p.numel() for p in model.network.parameters()):,} ({model.network.hidden.out_features} units)"
    rows = [["reads", f"the last {model.context_length} letters"], ["parameters", size]]
    if "global_step" in model.checkpoint:
        rows.append(["trained for", f"{model.checkpoint['global_step']:,} steps"])
    if splits is not None and (compared := compare_losses(model, splits)):
        rows.append(["list", f"{splits.num_names:,} names"])
        (_, ours), (counting, theirs) = compared.items()
        rows += [["validation loss", f"{ours[1]:.4f} nats per letter"], [counting, f"{theirs[1]:.4f}"]]
    return rows
