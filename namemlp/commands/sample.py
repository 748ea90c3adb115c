"""`namemlp sample`: new names, without Lightning."""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from namemlp.errors import UserError, shorten
from namemlp.lists import Constraints
from namemlp.sampling import sample_names
from namemlp.share import load_list, open_model

LOW_ACCEPTANCE = 0.01  # below which it is said how few draws were accepted


def sample(
    ckpt_path: str | None = None,
    output: str | None = None,
    scores: bool = False,
    by_probability: bool = False,
    min_length: int = 1,
    suffix: str = "",
    contains: str = "",
    pattern: str | None = None,
    avoid: str | None = None,
    apart: int | None = None,
    path: str | None = None,
    default_root_dir: str | None = None,
    **settings: Any,
) -> None:
    """Print names, one per line.

    Args:
        ckpt_path: the model: a path, or last or best: that checkpoint of the newest run; null: the bundled model
        output: file to write the names to instead
        scores: append each name's log-probability (in nats, at temperature 1), tab-separated
        by_probability: likeliest names first
        min_length: characters
        suffix: common end
        contains: common part
        pattern: regular expression that the whole name matches
        avoid: file of parts that no name has, one per line, in upper or lower case
        apart: edit distance that a name keeps from all names that the model was trained on; 1: the same as novel
        settings: as of `sample_names`
    """
    if ckpt_path is None:
        print("sampling the bundled model; your own: --ckpt_path last", file=sys.stderr)
        ckpt_path = str(files("namemlp") / "names.ckpt")
    model, file = open_model(ckpt_path, default_root_dir, "sample")
    network, vocabulary, context_length = model.network, model.vocabulary, model.context_length
    for name, text in dict(suffix=suffix, contains=contains).items():
        if set(text) - set(vocabulary.characters[1:]):
            unknown = vocabulary.describe_unknown(text)
            raise UserError(
                f"{name} {shorten(repr(text))} has {unknown}; it knows {shorten(vocabulary.characters[1:])}"
            )
    for name, length in dict(min_length=min_length, suffix=len(suffix), contains=len(contains)).items():
        if length > settings["max_length"]:
            raise UserError(f"max_length is {settings['max_length']}: {name} needs {length}, raise --max_length")
    avoided = read_parts(avoid) if avoid else []
    known_names = load_list(model, file, path)[0] if apart and apart > 1 else []
    settings["novel"] |= apart is not None
    distance = None if apart == 1 else apart  # 1 is what the hashes in the checkpoint are enough for
    constraints = Constraints(min_length, suffix, contains, pattern, avoided, distance, known_names)
    asked = dict(min_length=min_length, suffix=suffix, contains=contains, pattern=pattern, avoid=avoid, apart=apart)
    asked = [f"--{name}" for name, value in asked.items() if value not in (None, "", 1)]
    accept, hashes = constraints if asked else None, model.training_names
    try:
        names = sample_names(network, vocabulary, context_length, **settings, training_names=hashes, accept=accept)
    except UserError as error:
        if not constraints.num_drawn:
            raise
        raise UserError(f"{', '.join(asked)}: {error}") from error
    accepted, drawn = constraints.num_accepted, constraints.num_drawn
    if accepted < LOW_ACCEPTANCE * drawn:
        print(f"{accepted:,} of {drawn:,} draws {'was' if accepted == 1 else 'were'} accepted", file=sys.stderr)
    if scores or by_probability:
        log_probs = model.log_prob(names).tolist()
    if by_probability:
        log_probs, names = zip(*sorted(zip(log_probs, names, strict=True), key=lambda pair: -pair[0]), strict=True)
    if scores:
        names = [f"{name}\t{value:.4f}" for name, value in zip(names, log_probs, strict=True)]
    write_lines(names, output)


def read_parts(path: str) -> list[str]:
    """The lines of a UTF-8 file that are not empty. Raises: UserError: it cannot be read."""
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another --avoid") from error


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
