"""A list of ten million names, drawn from a model of the bundled list: from the file to training, and a step on it.

    python benchmarks/large_list.py [--names 10000000] [--path LIST] [--rounds 3] [--steps 200000]

Prints seconds and peak memory of a first and a second start, each a process of its own, and then what a step costs
beside one on the bundled list, in turn.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

from harness import THREADS, command, make_parser, whole_process

# Memory above that of the interpreter with everything imported, at its highest.
START = """
import json, resource, sys, time
import torch, lightning
from namemlp import NamesDataModule

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10

imported, start = peak(), time.perf_counter()
data = NamesDataModule(sys.argv[1])
data.setup("fit")
ready = time.perf_counter() - start, peak() - imported
next(iter(data.train_dataloader()))
sizes = data.splits.num_names, len(data.splits.ids)
print(json.dumps([*ready, time.perf_counter() - start, peak() - imported, *sizes]))
"""


def main() -> None:
    parser = make_parser(__doc__, names=10_000_000, rounds=3, steps=200_000, threads=THREADS)
    parser.add_argument("--path", help="an existing list to use instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, threads = os.path.abspath(args.path or Path(folder) / "names.txt"), args.threads
        if not args.path:
            command(folder, min(50_000, args.steps), threads, folder)
            sample = ["--ckpt_path", "last", "--num_names", str(args.names), "--seed", "1", "--output", path]
            whole_process(["-m", "namemlp", "sample", *sample], folder, threads)
        Path(path).with_name(f".{Path(path).name}.splits.pt").unlink(missing_ok=True)  # the cache

        print("| start | ready, s | peak, bytes per character | first batch, s | peak, bytes per character |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for start in ("first", "second"):
            _, out = whole_process(["-c", START, path], folder, threads)
            ready, memory, batch, memory_too, names, characters = json.loads(out)
            size = characters - names  # without the line ends
            print(f"| {start} | {ready:.2f} | {memory / size:.1f} | {batch:.2f} | {memory_too / size:.1f} |")
        print(f"\n{names:,} names of {size:,} characters, {threads} threads\n")

        lists: dict[str, list[str]] = {"bundled": [], "large": ["--data.path", path]}
        quiet = [
            "--trainer.limit_val_batches=2",
            f"--trainer.val_check_interval={max(1, args.steps // 4)}",
            "--trainer.logger=false",
        ]
        times: dict[str, list[float]] = {name: [] for name in lists}
        for i in range(args.rounds):
            for name in sorted(lists, reverse=i % 2 == 0):
                seconds, _ = command(folder, args.steps, threads, folder, *lists[name], *quiet)
                times[name].append(seconds / args.steps * 1e6)
        print("| list | µs per step | ratio |\n| --- | ---: | ---: |")
        reference = statistics.median(times["bundled"])
        for name, values in times.items():
            print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(values) / reference:.2f} |")


if __name__ == "__main__":
    main()
