"""A list of ten million names, drawn from a model of the bundled list: from the file to training, and an update on it.

    python benchmarks/large_list.py [--names 10000000] [--path LIST] [--rounds 3]

Prints seconds and peak memory of a first and a second start, each a process of its own, and then what an update costs
beside one on the bundled list, in turn.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from fit import command, whole_process

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
print(json.dumps([*ready, time.perf_counter() - start, peak() - imported, len(data.corpus), len(data.corpus.ids)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=10_000_000)
    parser.add_argument("--path", help="a list that there is already")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, threads = os.path.abspath(args.path or Path(folder) / "names.txt"), args.threads
        if not args.path:
            command(folder, 50_000, threads, folder)
            sample = ["--ckpt_path", "last", "--num_names", str(args.names), "--seed", "1", "--output", path]
            whole_process(["-m", "namemlp", "sample", *sample], folder, threads)
        kept = list(Path(path).parent.glob(f".{Path(path).name}.*.pt"))
        for file in kept:
            file.unlink()

        print("| start | ready, s | peak, bytes a character | first batch, s | peak, bytes a character |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for start in ("first", "second"):
            _, out = whole_process(["-c", START, path], folder, threads)
            ready, memory, batch, memory_too, names, characters = json.loads(out)
            size = characters - names  # without the line ends
            print(f"| {start} | {ready:.2f} | {memory / size:.1f} | {batch:.2f} | {memory_too / size:.1f} |")
        print(f"\n{names:,} names of {size:,} characters, {threads} threads\n")

        lists: dict[str, list[str]] = {"bundled": [], "large": ["--data.path", path]}
        quiet = ["--trainer.limit_val_batches=2", "--trainer.val_check_interval=50000", "--trainer.logger=false"]
        times: dict[str, list[float]] = {name: [] for name in lists}
        for i in range(args.rounds):
            for name in sorted(lists, reverse=i % 2 == 0):
                seconds, _ = command(folder, 200_000, threads, folder, *lists[name], *quiet)
                times[name].append(seconds / 200_000 * 1e6)
        print("| list | µs an update | ratio |\n| --- | ---: | ---: |")
        reference = statistics.median(times["bundled"])
        for name, each in times.items():
            print(f"| {name} | {statistics.median(each):.1f} | {statistics.median(each) / reference:.2f} |")


if __name__ == "__main__":
    main()
