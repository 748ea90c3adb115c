"""What is in a list of names, in words and numbers, and what to set for it."""

import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np

from namemlp.corpus import Splits
from namemlp.vocabulary import Vocabulary

RARE, SHOWN, BAR = 5, 40, 50  # a rare character comes less often; characters that are shown; columns of the histogram
# Up to so many training examples: context length and hidden size, by benchmarks/advice.py.
SIZES = {1_000: (2, 50), 10_000: (3, 50), 100_000: (5, 50), math.inf: (8, 200)}
EPOCHS, BATCH_SIZE, MAX_STEPS = 10, 32, 100_000


def describe_names(names: list[str], splits: Splits, path: str | None) -> Iterator[tuple[str, str]]:
    """Pairs (subject, text) of a list in the order of its file and of its splits."""
    different = len(set(names))
    repeated = f"{len(names) - different:,} repeat an earlier one ({1 - different / len(names):.1%})"
    yield "names", f"{len(names):,}, of which {repeated}"
    counts = Counter("".join(names))
    commonest = [f"{show(character)} {count:,}" for character, count in counts.most_common(SHOWN)]
    more = f", and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else ""
    yield "characters", f"{len(counts):,}: {', '.join(commonest)}{more}"
    if rare := [character for character, count in counts.most_common() if count < RARE]:
        some = " ".join(map(show, rare[:SHOWN]))
        yield (
            "rare",
            f"{len(rare):,} with less than {RARE} occurrences, hardly learned: {some}{' …' * (len(rare) > SHOWN)}",
        )
    yield "lengths", describe_lengths([*map(len, names)])
    yield "case", describe_case(names)
    spaces = [name for name in names if any(map(str.isspace, name))]
    yield "white space", f"within {numbered(len(spaces))}" + (f", such as {spaces[0]!r}" if spaces else "")
    if table := describe_columns(names):
        yield "table", table
    unnormalized = [name for name in names if unicodedata.normalize("NFC", name) != name]
    if unnormalized:
        yield "Unicode", f"{numbered(len(unnormalized))} with letters and accents apart, such as {unnormalized[0]!r}"
    first = np.array([*Counter(name[0] for name in names).values()]) / len(names)
    entropy, uniform = -(first * np.log2(first)).sum(), math.log2(len(first))
    yield "first character", f"entropy {abs(entropy):.2f} bits; {uniform:.2f} if all {len(first):,} were as frequent"
    yield from describe_splits(splits)
    yield "advice", f"{advise(splits.val_start, path)}; then --ckpt_path best"


def advise(num_examples: int, path: str | None) -> str:
    """The command that trains on a list of so many training examples."""
    context_length, hidden_size = next(sizes for limit, sizes in SIZES.items() if num_examples <= limit)
    max_steps = max(100, min(MAX_STEPS, EPOCHS * num_examples // BATCH_SIZE))
    settings = {} if path is None else {"data.path": shlex.quote(path)}
    settings |= {"model.init": "scaled", "model.context_length": context_length, "model.embedding_dim": 10}
    settings |= {"model.hidden_size": hidden_size, "optimizer": "AdamW", "optimizer.lr": 0.002}
    settings["trainer.max_steps"] = max_steps
    return "python -m namemlp fit " + " ".join(f"--{name} {value}" for name, value in settings.items())


def numbered(count: int) -> str:
    return f"{count:,} name{'s'[: count != 1]}"


def show(character: str) -> str:
    return "space" if character == " " else character if character.isprintable() else f"U+{ord(character):04X}"


def describe_lengths(lengths: list[int]) -> str:
    """The range of the lengths, and a histogram of at most 20 rows."""
    shortest, longest = min(lengths), max(lengths)
    width = -(-(longest - shortest + 1) // 20)  # lengths in a row
    rows = Counter((length - shortest) // width for length in lengths)
    text = f"{shortest} to {longest} characters, mean {np.mean(lengths):.1f}, median {np.median(lengths):.0f}"
    for row in range(max(rows) + 1):
        low = shortest + row * width
        label = str(low) if width == 1 else f"{low}-{low + width - 1}"
        text += f"\n{label:>9} {rows[row]:>9,} {'#' * round(BAR * rows[row] / max(rows.values()))}".rstrip()
    return text


def describe_case(names: list[str]) -> str:
    kinds = {"lower case": str.islower, "upper case": str.isupper, "first letters capital": str.istitle}
    counts = {kind: sum(map(test, names)) for kind, test in kinds.items()}
    counts["mixed"] = sum(name.lower() != name.upper() for name in names) - sum(counts.values())
    lowered = len({name.lower() for name in names})
    text = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "letters without case"
    same = len(set(names)) - lowered
    return text + (f"; {numbered(same)} as others but for case: --data.lowercase joins them" if same else "")


def describe_columns(names: list[str]) -> str:
    """What looks like columns or numbers, or nothing."""
    found = []
    for separator, word in {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}.items():
        if count := sum(separator in name for name in names):
            found.append(f"{numbered(count)} with {word}")
    if count := sum(any(map(str.isdigit, name)) for name in names):
        found.append(f"{numbered(count)} with digits")
    return ", ".join(found)


def describe_splits(splits: Splits) -> Iterator[tuple[str, str]]:
    decode = Vocabulary(splits.characters).decode_names
    names = [decode(part) for part in splits.parts]
    yield "split", " / ".join(f"{len(part):,}" for part in names) + " names (train / val / test)"
    known = set(names[0])
    for split, part in zip(("val", "test"), names[1:], strict=True):
        count = sum(name in known for name in part)
        share = f" ({count / len(part):.1%})" if part else ""
        yield f"{split} in train", f"{count:,} of {numbered(len(part))} also trained on{share}"
