"""The products of matrices of a step by torch's own choice (MKL) and by oneDNN: microseconds and errors.

    python benchmarks/matmul.py [--rounds 5]

For each size the six products of a step, forward and backward, in turn. The errors are the largest of the first
product, beside float64. Prints a Markdown table of medians.
"""

import statistics
import time

import torch
from harness import make_parser

SIZES = [(200, 32, 15), (1000, 32, 15), (200, 512, 15), (1000, 512, 15), (400, 512, 192), (1600, 512, 192)]
SIZES += [(3200, 512, 192), (2000, 4096, 15)]  # hidden units, batch size, inputs of the hidden layer


def products(hidden: int, batch: int, inputs: int, vocabulary: int = 27) -> list:
    x, h, dlogits = torch.randn(batch, inputs), torch.randn(batch, hidden), torch.randn(batch, vocabulary)
    w1, w2 = torch.randn(hidden, inputs), torch.randn(vocabulary, hidden)
    return [(x, w1.T), (h, w2.T), (dlogits, w2), (dlogits.T, h), (h, w1), (h.T, x)]


def microseconds(pairs: list, precision: str, calls: int = 30) -> tuple[float, float]:
    """Of all products together, and the largest error of the first."""
    torch.backends.mkldnn.matmul.fp32_precision = precision
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        for a, b in pairs:
            a @ b
        times.append(time.perf_counter() - start)
    a, b = pairs[0]
    error = (a @ b - a.double() @ b.double()).abs().max().item()
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    return statistics.median(times) * 1e6, error


def main() -> None:
    args = make_parser(__doc__, rounds=5).parse_args()
    print("| hidden / batch / inputs | multiply-adds forward | MKL, µs | oneDNN, µs | ratio | error: MKL | oneDNN |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for hidden, batch, inputs in SIZES:
        pairs = products(hidden, batch, inputs)
        rounds = [[microseconds(pairs, precision) for precision in ("none", "bf16")] for _ in range(args.rounds + 1)]
        (mkl, mkl_error), (onednn, onednn_error) = (
            (statistics.median(one[i][0] for one in rounds[1:]), rounds[0][i][1]) for i in range(2)
        )
        macs = batch * hidden * (inputs + 27) / 1e6
        print(f"| {hidden:,} / {batch:,} / {inputs} | {macs:.1f} million | {mkl:,.0f} | {onednn:,.0f} ", end="")
        print(f"| {onednn / mkl:.2f} | {mkl_error:.1e} | {onednn_error:.1e} |", flush=True)
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds")


if __name__ == "__main__":
    main()
