"""`namemlp sample`: new names, without Lightning."""

import sys
from pathlib import Path
from typing import Any

from namemlp.errors import UserError, shorten
from namemlp.network import build_network
from namemlp.runs import open_checkpoint
from namemlp.sampling import log_prob, sample_names
from namemlp.vocabulary import Vocabulary


def sample(
    ckpt_path: str | None = None,
    output: str | None = None,
    scores: bool = False,
    default_root_dir: str | None = None,
    **settings: Any,
) -> None:
    """Print names, one per line.

    Args:
        ckpt_path: the model: a path, or last or best: that checkpoint of the newest run
        output: file to write the names to instead
        scores: append each name's log-probability (in nats, at temperature 1), tab-separated
        settings: as of `sample_names`
    """
    network, vocabulary, context_length, _, checkpoint = load_model(ckpt_path, default_root_dir, "sample")
    training_names = checkpoint["training_names"].numpy()
    names = sample_names(network, vocabulary, context_length, **settings, training_names=training_names)
    if scores:
        log_probs = log_prob(network, vocabulary, context_length, names).tolist()
        names = [f"{name}\t{value:.4f}" for name, value in zip(names, log_probs, strict=True)]
    write_lines(names, output)


def write_lines(lines: list[str], output: str | None) -> None:  # to a file, or stdout. Raises: UserError
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8")  # as a list is, whatever the terminal's own
        sys.stdout.write(text)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): give another --output") from error


def load_model(ckpt_path: str | None, default_root_dir: str | None, command: str) -> tuple[Any, ...]:
    """A checkpoint's network, vocabulary, context length, path and content. Raises: UserError: it cannot be used."""
    path, checkpoint = open_checkpoint(ckpt_path, Path(default_root_dir or "."), is_fit=False, command=command)
    hparams = checkpoint["hyper_parameters"]
    network = build_network(hparams)
    try:
        network.load_state_dict({k.removeprefix("network."): v for k, v in checkpoint["state_dict"].items()})
    except RuntimeError as error:
        raise UserError(f"{path} does not hold the weights of its model: {shorten(str(error))}") from error
    return network.eval(), Vocabulary(hparams["vocabulary"]), hparams["context_length"], path, checkpoint
