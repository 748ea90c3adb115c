"""A trained model as one HTML page that works without a network, a server or an installation."""

import base64
import copy
import json
from importlib.resources import files
from pathlib import PurePath

import numpy as np
import torch

from namemlp.corpus import Splits
from namemlp.errors import UserError
from namemlp.network import eval_mode
from namemlp.share.model import Model, check_mlp, compare_losses, random_contexts
from namemlp.viz import arrange_embedding, character_classes

MAX_FLOAT32 = 10**6  # bytes of weights; larger models have float16 in their page
MAX_DIFFERENCE = 0.1  # of logits, between page and network


def export_html(model: Model, splits: Splits | None = None, with_known_names: bool = False) -> str:
    """The page of a model, with the losses of its list where that is given. Raises: UserError: it cannot be one."""
    network = model.network
    check_mlp(model)
    arrays = {name: tensor.float().numpy() for name, tensor in network.state_dict().items()}
    dtype = np.dtype("<f4" if sum(array.nbytes for array in arrays.values()) <= MAX_FLOAT32 else "<f2")
    with np.errstate(over="ignore"):
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    difference = largest_difference(model, arrays)
    if not difference <= MAX_DIFFERENCE:
        raise UserError(f"the logits of a page in {dtype.name} differ by {difference:.3g} from the model's: too much")
    title, shown, places, positions = arrange_embedding(network.embedding.weight, model.vocabulary.characters)
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
    page, contexts = copy.deepcopy(model.network).double(), random_contexts(model)
    page.load_state_dict({name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()})
    with eval_mode(model.network), eval_mode(page):
        return (page(contexts) - model.network(contexts)).abs().max().item()


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
