"""Which size of model and how many steps suit a list: the runs behind the advice of `namemlp describe`.

    python benchmarks/advice.py LIST … [--steps 20000]

Each of 12 sizes is trained once with AdamW, its lr 0.002, and validated forty times. Prints a Markdown table for each
list: the lowest validation loss, and the step that it was reached at.
"""

import re
import tempfile
from pathlib import Path

from harness import fit_arguments, make_parser, whole_process

CONTEXTS, SIZES = (2, 3, 5, 8), (50, 200, 800)
SETTINGS = ["--model.init=scaled", "--model.embedding_dim=10", "--optimizer=AdamW", "--optimizer.lr=0.002"]


def best(path: Path, context_length: int, hidden_size: int, steps: int) -> tuple[float, int]:
    """The lowest validation loss of a run, and its step."""
    sizes = [f"--model.context_length={context_length}", f"--model.hidden_size={hidden_size}", f"--data.path={path}"]
    run = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps // 40}", "--trainer.logger=false"]
    with tempfile.TemporaryDirectory() as folder:
        whole_process(fit_arguments(*SETTINGS, *sizes, *run, "--baseline=false"), folder, threads=1)
        [file] = Path(folder).rglob("best-*.ckpt")
        step, loss = re.fullmatch(r"best-step(\d+)-loss(.+)\.ckpt", file.name).groups()
        return float(loss), int(step)


def main() -> None:
    parser = make_parser(__doc__, steps=20_000)
    parser.add_argument("lists", nargs="+", type=Path)
    args = parser.parse_args()
    for path in args.lists:
        print(f"\n{path.name}\n\n| context | {' | '.join(f'{size} units' for size in SIZES)} |")
        print("| ---: |" + " ---: |" * len(SIZES))
        for context_length in CONTEXTS:
            found = (best(path.absolute(), context_length, size, args.steps) for size in SIZES)
            print(f"| {context_length} | {' | '.join(f'{loss:.4f} at {step:,}' for loss, step in found)} |", flush=True)


if __name__ == "__main__":
    main()
