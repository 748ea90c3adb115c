"""`namemlp baseline`: what counting gets on a list, without Lightning."""

import sys
from typing import Literal

from namemlp.commands.sample import write_lines
from namemlp.corpus import BUNDLED, check_parts, make_splits, read_names
from namemlp.errors import check_range
from namemlp.lists import CONSTANTS, NgramNetwork, evaluate_counting
from namemlp.sampling import sample_names
from namemlp.vocabulary import Vocabulary


def baseline(
    max_n: int = 6,
    sample: int | None = None,
    seed: int | None = None,
    path: str | None = None,
    lowercase: bool = False,
    split: tuple[float, float, float] = (0.8, 0.1, 0.1),
    shuffles: int = 1,
    split_seed: int = 42,
    duplicates: Literal["keep", "drop", "together"] = "keep",
) -> None:
    """Print the losses of models that count n-grams.

    Args:
        max_n: the longest n-grams that are counted
        sample: print so many new names of the best counting model instead of its losses
        seed: of these names; null: new ones each time
    """
    check_range(1, 65, "from 1 to 64", max_n=max_n)
    source = path or BUNDLED
    splits = make_splits(read_names(path, lowercase), None, split, split_seed, shuffles, source, duplicates)
    check_parts(splits, split, source)
    output = sys.stdout if sample is None else sys.stderr
    constants = ", ".join(f"{constant:g}" for constant in CONSTANTS)
    print(f"additive smoothing by the best for val of {constants}\n", file=output)
    print("    n  smoothing        train       val", file=output)
    models = []
    for model in evaluate_counting(splits, max_n):  # printed as they come: a long list takes minutes
        models.append(model)
        train, val, _ = model.losses
        print(f"{model.n:>5}  {model.smoothing:<11}{train:>11.4f}{val:>10.4f}", file=output, flush=True)
    best = min(models, key=lambda model: model.losses[1])
    print(f"\nlowest val: {best}  {best.format_losses()}", file=output)
    if sample is not None:
        context_length = max(1, best.n - 1)
        vocabulary = Vocabulary(splits.characters)
        write_lines(sample_names(NgramNetwork(splits, best), vocabulary, context_length, sample, seed=seed), None)
