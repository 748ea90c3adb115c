"""What a whole `fit` costs beside the notebook's loop and plain Lightning, and what a step costs in larger models.

    python benchmarks/fit.py [--rounds 3] [--steps 50000] [--sizes-only]
    python benchmarks/fit.py --old CHECKOUT [--rounds 9] [--steps 50000]

Each contender runs in a process of its own, one after another, round after round, all with the same number of threads.
Prints Markdown tables of medians; takes ten minutes or more. With --old it compares nothing but `namemlp fit` of this
checkout and of another one, in pairs, beside the notebook's loop.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path

from harness import ROOT, THREADS, child, command, make_parser, medians, silence_lightning, step_microseconds, stopwatch

LR, BATCH_SIZE, SEED = 0.01, 32, 2147483647


def notebook_examples(path: str | Path, context_length: int = 3) -> list:
    """The notebook's cells: contexts and next characters of three splits, grown character by character."""
    import random

    import torch

    words = Path(path).read_text().splitlines()
    ids = {character: i for i, character in enumerate([".", *sorted(set("".join(words)))])}

    def build(words):
        x, y = [], []
        for word in words:
            context = [0] * context_length
            for character in word + ".":
                x.append(context)
                y.append(ids[character])
                context = [*context[1:], ids[character]]
        return torch.tensor(x), torch.tensor(y)

    random.seed(42)
    random.shuffle(words)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    return [build(words[:first]), build(words[first:second]), build(words[second:])]


def notebook(steps: int) -> float:
    """The notebook's cells: its way to the examples, its loop, its evaluation. Seconds in the loop."""
    import torch
    import torch.nn.functional as F

    (Xtr, Ytr), (Xdev, Ydev), _ = notebook_examples(ROOT / "namemlp" / "names.txt")
    g = torch.Generator().manual_seed(SEED)
    C, W1, b1 = (torch.randn(shape, generator=g) for shape in ((27, 5), (15, 200), (200,)))
    W2, b2 = (torch.randn(shape, generator=g) for shape in ((200, 27), (27,)))
    parameters = [C, W1, b1, W2, b2]
    for p in parameters:
        p.requires_grad = True

    def loss_of(X, Y):
        h = torch.tanh(C[X].view(-1, 15) @ W1 + b1)
        return F.cross_entropy(h @ W2 + b2, Y)

    lossi, stepi = [], []
    start = time.perf_counter()
    for i in range(steps):
        ix = torch.randint(0, Xtr.shape[0], (BATCH_SIZE,))
        loss = loss_of(Xtr[ix], Ytr[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.data += -LR * p.grad
        stepi.append(i)
        lossi.append(loss.log10().item())
    seconds = time.perf_counter() - start
    print(f"train {loss_of(Xtr, Ytr).item():.4f} dev {loss_of(Xdev, Ydev).item():.4f}")
    return seconds


def plain_lightning(steps: int) -> float:
    """Lightning as a tutorial writes it, without validation. Seconds in the Trainer's loop."""
    import torch
    from lightning import LightningModule, Trainer
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, TensorDataset

    from namemlp import NamesDataModule

    class Model(LightningModule):
        def __init__(self):
            super().__init__()
            self.embedding, self.hidden, self.output = nn.Embedding(27, 5), nn.Linear(15, 200), nn.Linear(200, 27)

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self.output(torch.tanh(self.hidden(self.embedding(x).view(len(x), -1))))
            loss = F.cross_entropy(logits, y)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=LR)

    watch = stopwatch()
    data = NamesDataModule()
    data.setup("fit")
    loader = DataLoader(TensorDataset(*data.train_set[:]), batch_size=BATCH_SIZE, shuffle=True)
    Trainer(max_steps=steps, accelerator="cpu", callbacks=[watch]).fit(Model(), loader)
    return watch.seconds


CHILDREN = {function.__name__: function for function in (notebook, plain_lightning)}


def runs_table(steps: int, rounds: int, threads: int) -> None:
    """Seconds of whole runs of the notebook's model."""
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            fit = (folder, steps, threads, cache)
            results = {
                "the notebook's loop": child(__file__, "notebook", steps, folder, threads),
                "plain Lightning, no validation": child(__file__, "plain_lightning", steps, folder, threads),
                "namemlp, standard path": command(*fit, "--trainer.strategy=auto"),
                "namemlp, the first run on a machine": command(*fit, "--trainer.strategy=fused"),
                "namemlp": command(*fit, "--trainer.strategy=fused"),
            }
        for name, result in results.items():
            times.setdefault(name, []).append(result)
    reference = medians(times["the notebook's loop"])
    print(f"\n| {steps:,} steps | s | µs per step | ratio | whole process, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rows in times.items():
        seconds, whole = medians(rows)
        step, ratios = seconds / steps * 1e6, (seconds / reference[0], whole / reference[1])
        print(f"| {name} | {seconds:.2f} | {step:,.1f} | {ratios[0]:.2f} | {whole:.2f} | {ratios[1]:.2f} |")


def old_table(old: Path, steps: int, rounds: int, threads: int) -> None:
    """Seconds of `namemlp fit` of this checkout over those of another one, and of the notebook's loop, run in turn."""
    roots = {"old": old.resolve(), "new": ROOT.resolve()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in roots}
    print("| round | first | steps: old, s | new, s | new/old | whole process: old, s | new, s | new/old |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")

    def print_row(number: str, first: str, pairs: list[tuple[float, float, float]]) -> None:
        cells = [f"{pair[0]:.3f} | {pair[1]:.3f} | {pair[2]:.3f}" for pair in pairs]
        print(f"| {number} | {first} | {' | '.join(cells)} |", flush=True)

    ratios, loops = [], []
    with tempfile.TemporaryDirectory() as cache:
        for i in range(rounds + 1):
            loops.append(child(__file__, "notebook", steps, cache, threads))
            order = sorted(roots, reverse=i % 2 == 0)
            for name in order:
                with tempfile.TemporaryDirectory() as folder:
                    result = command(folder, steps, threads, cache, root=roots[name])
                if i > 0:  # the first round compiles the kernels
                    times[name].append(result)
            if i > 0:
                pairs = list(zip(times["old"][-1], times["new"][-1], strict=True))
                ratios.append([new / old for old, new in pairs])
                print_row(str(i), order[0], [(*pair, ratio) for pair, ratio in zip(pairs, ratios[-1], strict=True)])
    columns = zip(medians(times["old"]), medians(times["new"]), medians(ratios), strict=True)
    print_row("median", "", list(columns))
    loop = medians(loops[1:])[0]
    old_ratio, new_ratio = (medians(times[name])[0] / loop for name in ("old", "new"))
    print(f"the notebook's loop: {loop:.3f} s; old {old_ratio:.3f} of it, new {new_ratio:.3f}")


def sizes_table(rounds: int) -> None:
    """Microseconds per step by the standard path and by both engines of the fused path, whichever fit would choose."""
    import torch

    from namemlp import FusedStrategy, NameModule, NamesDataModule
    from namemlp.fast import sgd

    silence_lightning()
    limit, threads = sgd.MAX_STEP_MACS, torch.get_num_threads()
    # By what limit the fused path takes gradients in closed form, or the kernel, for steps of any size.
    limits = {"closed form": -1, "kernel": float("inf")}
    paths = ("standard, without oneDNN", "standard", "closed form", "kernel")

    def microseconds(path: str, steps: int, hidden: int, batch: int, context: int) -> float:
        data = NamesDataModule(context_length=context, batch_size=batch)
        data.setup("fit")
        model = NameModule(data.vocabulary.characters, context, hidden_size=hidden, init="scaled")
        sgd.MAX_STEP_MACS = limits.get(path, limit)
        strategy = "auto" if path.startswith("standard") else FusedStrategy()
        return step_microseconds(model, data, steps, strategy, fast_matmul="without" not in path)

    print(
        "\n| hidden / batch / context | million multiply-adds | standard path without oneDNN, µs per step | with ",
        end="",
    )
    print("| fused path: closed form | kernel | kernel / closed form | fit takes | fused / standard without | with |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |")
    sizes = [(hidden, 32, 3) for hidden in (100, 200, 500, 1000, 2000)]
    sizes += [(200, batch, 3) for batch in (128, 512, 1024, 4096)]
    sizes += [(200, 32, context) for context in (8, 16, 32)]
    sizes += [(1000, 512, 3), (1000, 32, 16), (2000, 4096, 3)]
    for hidden, batch, context in sizes:
        macs = 3 * batch * hidden * (27 + 5 * context)  # per step
        steps = int(min(2000, max(10, 3e9 / macs)))
        rows = [[microseconds(path, steps, hidden, batch, context) for path in paths] for _ in range(rounds + 1)]
        without, standard, closed_form, kernel = medians(rows[1:])  # the first is to warm up
        choice = "closed form" if macs * (threads - 1) > limit * threads else "kernel"
        fused = kernel if choice == "kernel" else closed_form
        print(f"| {hidden:,} / {batch:,} / {context} | {macs / 1e6:,.1f} | {without:,.0f} | {standard:,.0f} ", end="")
        print(f"| {closed_form:,.0f} | {kernel:,.0f} | {kernel / closed_form:.2f} | {choice} ", end="")
        print(f"| {fused / without:.2f} | {fused / standard:.2f} |", flush=True)
    sgd.MAX_STEP_MACS = limit


def main() -> None:
    parser = make_parser(__doc__, steps=50_000, rounds=3, threads=THREADS)
    parser.add_argument("--sizes-only", action="store_true", help="the second table only")
    parser.add_argument("--old", type=Path, help="checkout of another commit to compare this one with")
    parser.add_argument("--child", choices=CHILDREN, help="one contender of the first table, in this process")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args.steps)))
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.old:
        old_table(args.old, args.steps, args.rounds, args.threads)
    elif not args.sizes_only:
        runs_table(args.steps, args.rounds, args.threads)
    if not args.old:
        sizes_table(args.rounds)
    import lightning
    import torch

    versions = f"torch {torch.__version__}, lightning {lightning.__version__}, {platform.platform()}"
    print(f"\n{args.threads} threads, {args.rounds} rounds, {versions}")


if __name__ == "__main__":
    main()
