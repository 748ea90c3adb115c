"""configs/tuned.yaml with several seeds: losses of all splits, and of the names in them that training has not seen.

    python benchmarks/tuned.py LIST [--shuffles 3] [--seeds 1 2 3] [MORE ARGUMENTS OF fit ...]

Each seed is a whole command, with its own start of the weights. A name that is twice in a list may be in two splits;
without such names a split shows what a model makes of new ones.
"""

import os
import statistics
import tempfile
from pathlib import Path

from harness import THREADS, final_losses, fit_arguments, make_parser, whole_process

from namemlp import NameModule, NamesDataModule


def losses(data: NamesDataModule, checkpoint: Path) -> list[float]:
    """Loss per character of the validation and test split, and of their names that are not in the training split."""
    model = NameModule.load_from_checkpoint(checkpoint)
    train, *others = (
        data.vocabulary.decode_names(split.columns[-1]) for split in (data.train_set, data.val_set, data.test_set)
    )
    training_names, results = set(train), []
    for names in (*others, *([name for name in names if name not in training_names] for names in others)):
        results.append(-model.log_prob(names).sum().item() / sum(len(name) + 1 for name in names))
    return results


def main() -> None:
    parser = make_parser(__doc__, shuffles=3, threads=THREADS)
    parser.add_argument("list")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--config", default="tuned", help="base: with configs/base.yaml alone")
    args, more = parser.parse_known_args()
    path = os.path.abspath(args.list)
    configs = tuple(dict.fromkeys(("base", args.config)))
    rows = []
    print("| seed | train | val | test | val, new names | test, new names | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            settings = [f"--data.path={path}", f"--data.shuffles={args.shuffles}", *more]
            settings += [f"--seed_everything={seed}", f"--model.init_seed={seed}"]
            seconds, out = whole_process(fit_arguments(*settings, configs=configs), folder, args.threads)
            [last] = Path(folder).rglob("last.ckpt")
            model = NameModule.load_from_checkpoint(last)
            data = NamesDataModule(path, shuffles=args.shuffles, context_length=model.hparams.context_length)
            data.setup("fit")
            rows.append([final_losses(out)["train"], *losses(data, last), seconds])
        *results, seconds = rows[-1]
        print(f"| {seed} | {' | '.join(f'{loss:.4f}' for loss in results)} | {seconds:.0f} |", flush=True)
    *results, seconds = map(statistics.mean, zip(*rows, strict=True))
    print(f"| mean | {' | '.join(f'{loss:.4f}' for loss in results)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
