"""A trained model in Python, without Lightning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from namemlp import sampling
from namemlp.corpus import BUNDLED, Splits, are_known, encode_names, make_splits, read_names
from namemlp.errors import UserError, shorten
from namemlp.lists import best_ngram
from namemlp.network import NameMLP, build_network, eval_mode
from namemlp.runs import open_checkpoint
from namemlp.vocabulary import Vocabulary


class Model:
    """A network, (B, T) ids -> (B, V) logits, with its vocabulary and the hashes of the names it was trained on."""

    def __init__(
        self,
        network: nn.Module,
        vocabulary: Vocabulary,
        context_length: int,
        training_names: Any = (),
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.vocabulary, self.context_length = network, vocabulary, context_length
        self.training_names = np.sort(np.asarray(training_names, np.int32))
        self.checkpoint = checkpoint or {}  # its content, which says how the model was trained

    def sample(self, *args: Any, **settings: Any) -> list[str]:
        """New names, by the settings of `namemlp.sampling.sample_names` from num_names on."""
        model = self.network, self.vocabulary, self.context_length
        return sampling.sample_names(*model, *args, training_names=self.training_names, **settings)

    def log_prob(self, names: Sequence[str]) -> Tensor:
        """The log-probability of each name with its end, in nats, (names,) float64. Raises: UserError."""
        return sampling.log_prob(self.network, self.vocabulary, self.context_length, names)

    def seen_in_training(self, names: Sequence[str]) -> list[bool]:  # validation and test included
        return are_known(names, self.training_names).tolist()

    def next_characters(self, prefix: str = "") -> dict[str, float]:
        """The probability of each character after a prefix, likeliest first; "" is the end. Raises: UserError."""
        ids = encode_names([prefix], self.vocabulary, f"prefix {shorten(repr(prefix))}")[:-1]
        context = np.concatenate([np.zeros(self.context_length, np.int64), ids])[len(ids) :]
        with eval_mode(self.network):
            probabilities = self.network(torch.from_numpy(context)[None]).softmax(1)[0]  # (V,)
        characters = ["", *self.vocabulary.characters[1:]]
        return {characters[i]: probabilities[i].item() for i in probabilities.argsort(descending=True).tolist()}


def load(path: str | Path) -> Model:
    """The model of a checkpoint: a path, or last or best of the newest run. Raises: UserError: it cannot be used."""
    return open_model(str(path), ".", "load")[0]


def open_model(ckpt_path: str | None, default_root_dir: str | None, command: str) -> tuple[Model, Path]:
    """A checkpoint's model and path. Raises: UserError: it cannot be used."""
    path, checkpoint = open_checkpoint(ckpt_path, Path(default_root_dir or "."), is_fit=False, command=command)
    hparams = checkpoint["hyper_parameters"]
    network = build_network(hparams)
    try:
        network.load_state_dict({k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()})
    except RuntimeError as error:
        raise UserError(f"{path} does not hold the weights of its model: {shorten(str(error))}") from error
    names = checkpoint["training_names"].numpy()
    model = Model(network.eval(), Vocabulary(hparams["vocabulary"]), hparams["context_length"], names, checkpoint)
    return model, path


def check_mlp(model: Model) -> None:
    """Raises: UserError: the network is another one than mlp, which is not known outside of this package."""
    if type(model.network) is not NameMLP:
        raise UserError("export knows the network mlp only: this checkpoint has another one")


def random_contexts(model: Model) -> Tensor:
    """Contexts for which an exported model is compared with the network, (2048, T)."""
    return torch.randint(
        len(model.vocabulary), (2048, model.context_length), generator=torch.Generator().manual_seed(0)
    )


def compare_losses(model: Model, splits: Splits) -> dict[str, list[float]]:
    """The mean losses of train, val and test by the model and by counting; nothing where the list is long."""
    counting = best_ngram(splits)
    if counting is None:
        return {}
    losses = [-model.log_prob(model.vocabulary.decode_names(ids)).sum().item() / len(ids) for ids in splits.parts]
    return {"this model": losses, f"counting ({counting.n}-gram)": [*counting.losses]}


def load_list(model: Model, file: Path, path: str | None) -> tuple[list[str], Splits]:
    """The list that a checkpoint was trained on, and its splits. Raises: UserError: it is not there, or has changed."""
    checkpoint = model.checkpoint
    try:
        saved, sha256 = checkpoint["datamodule_hyper_parameters"], checkpoint["NamesDataModule"]["sha256"]
        path = path or saved["path"]
        settings = [saved[name] for name in ("split", "split_seed", "shuffles")]
        names = read_names(path, saved["lowercase"])
        splits = make_splits(names, model.vocabulary, *settings, path or BUNDLED, saved.get("duplicates", "keep"))
    except UserError as error:
        raise UserError(f"{error}: give the list that {file} was trained on as --data.path") from error
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not say how its list was read: {error!r}") from error
    if splits.sha256 != sha256:
        raise UserError(f"{path} is not the list that {file} was trained on: give that as --data.path")
    return names, splits
