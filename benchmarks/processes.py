"""Several processes against one with their batches together: how far the curves are apart, and milliseconds per step.

    python benchmarks/processes.py [--path LIST] [--steps 6000] [--rounds 5]

One process, two by the standard path (ddp) and by the fused path (fused_ddp), and four by the fused path; beside them
the bare message that averages as many numbers, the loss and the gradients, by the same library (gloo), in the same
round. Prints medians over the rounds, and, of one more with all steps in its curves, the largest difference from the
losses of one process. 6,000 steps are more than an epoch.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

import torch
from harness import THREADS, fit_arguments, make_parser, medians, steps_per_second, whole_process

from namemlp.runs import read_curves

NUMBERS = 8763  # the weights of configs/base.yaml and a loss
RUNS = {  # processes, strategy
    "one process, fused": (1, "fused"),
    "two processes, ddp": (2, "ddp"),
    "two processes, fused_ddp": (2, "fused_ddp"),
    "four processes, fused_ddp": (4, "fused_ddp"),
}


def send(rank: int, processes: int, port: int, messages: int, path: str) -> None:
    """Average NUMBERS numbers over processes, again and again; rank 0 writes the milliseconds per message."""
    torch.set_num_threads(1)
    url = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", url, rank=rank, world_size=processes)
    numbers = torch.randn(NUMBERS)
    for i in range(messages + 100):
        if i == 100:
            start = time.perf_counter()
        torch.distributed.all_reduce(numbers)
    if rank == 0:
        Path(path).write_text(str((time.perf_counter() - start) / messages * 1e3))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def message_milliseconds(processes: int, messages: int, folder: str) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = str(Path(folder) / "message")
    torch.multiprocessing.spawn(send, (processes, port, messages, path), processes)
    return float(Path(path).read_text())


def main() -> None:
    parser = make_parser(__doc__, steps=6000, rounds=5, threads=THREADS)
    parser.add_argument("--path")
    args = parser.parse_args()
    settings = [f"--trainer.max_steps={args.steps}", "--trainer.accelerator=cpu"]
    settings += ["--trainer.val_check_interval=1000"]
    settings += [f"--data.path={os.path.abspath(args.path)}"] if args.path else []
    rounds, curves = [], {}
    for i in range(args.rounds + 1):
        times = []
        with tempfile.TemporaryDirectory() as folder:
            for name, (processes, strategy) in RUNS.items():
                more = [f"--trainer.devices={processes}", f"--trainer.strategy={strategy}"]
                more += [f"--data.batch_size={32 // processes}", f"--name={strategy}{processes}"]
                more += ["--trainer.log_every_n_steps=1"] if i == 0 else []
                threads = max(1, args.threads // processes)
                _, out = whole_process(fit_arguments(*settings, *more), folder, threads)
                if i == 0:
                    curves[name] = read_curves(Path(folder) / "lightning_logs" / f"{strategy}{processes}" / "version_0")
                message = message_milliseconds(processes, 2000, folder) if strategy == "fused_ddp" else float("nan")
                times += [1e3 / steps_per_second(out), message]
        rounds.append(times)
    times = medians(rounds[1:])
    print("| run | ms per step | the bare message | ratio | train/loss, at most apart | val/loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    one = curves["one process, fused"]
    for i, name in enumerate(RUNS):
        step, message = times[2 * i : 2 * i + 2]
        apart = []
        for tag in ("train/loss", "val/loss"):
            (steps, expected), (same_steps, losses) = one[tag], curves[name][tag]
            assert steps == same_steps
            apart.append(max(abs(a - b) for a, b in zip(expected, losses, strict=True)))
        print(f"| {name} | {step:.2f} | {message:.2f} | {step / message:.2f} | {apart[0]:.1e} | {apart[1]:.1e} |")


if __name__ == "__main__":
    main()
