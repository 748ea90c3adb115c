"""configs/tuned.yaml with several seeds: losses of all splits, and of the names in them that training has not seen.

    python benchmarks/tuned.py LIST [--shuffles 3] [--seeds 1 2 3] [MORE ARGUMENTS OF fit ...]

Each seed is a whole command, with its own start of the weights. Names that stand twice in a list may come to lie in two
splits; without them a split says what a model makes of new names.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from fit import ROOT, whole_process

from namemlp import NameModule, NamesDataModule


def losses(data: NamesDataModule, checkpoint: Path) -> list[float]:
    """Loss a character of the validation and test split, and of their names that are not in the training split."""
    model = NameModule.load_from_checkpoint(checkpoint)
    train, *others = (
        data.vocabulary.decode(split[:][1]).split(".")[:-1] for split in (data.train_set, data.val_set, data.test_set)
    )
    seen, found = set(train), []
    for names in (*others, *([name for name in names if name not in seen] for names in others)):
        found.append(-model.score(names).sum().item() / sum(len(name) + 1 for name in names))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list")
    parser.add_argument("--shuffles", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--config", default="tuned", help="base: with configs/base.yaml alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args, more = parser.parse_known_args()
    path = os.path.abspath(args.list)
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in dict.fromkeys(("base", args.config))]
    rows = []
    print("| seed | train | val | test | val, new names | test, new names | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            fit = ["-m", "namemlp", "fit", *configs, f"--data.path={path}", f"--data.shuffles={args.shuffles}"]
            fit += [f"--seed_everything={seed}", f"--model.init_seed={seed}", *more]
            seconds, out = whole_process(fit, folder, args.threads)
            [last] = Path(folder).rglob("last.ckpt")
            model = NameModule.load_from_checkpoint(last)
            data = NamesDataModule(path, shuffles=args.shuffles, context_length=model.hparams.context_length)
            data.setup("fit")
            train = float(next(line.split()[2] for line in out.splitlines() if line.startswith("train ")))
            rows.append([train, *losses(data, last), seconds])
        *found, seconds = rows[-1]
        print(f"| {seed} | {' | '.join(f'{loss:.4f}' for loss in found)} | {seconds:.0f} |", flush=True)
    *found, seconds = map(statistics.mean, zip(*rows, strict=True))
    print(f"| mean | {' | '.join(f'{loss:.4f}' for loss in found)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
