"""What a whole `fit` costs beside the notebook's loop, plain Lightning and JAX, and what a step costs in larger models.

    python benchmarks/fit.py [--rounds 3] [--steps 50000] [--sizes-only]

Each contender runs in a process of its own, one after the other, round after round, all with the same number of
threads. Prints Markdown tables of medians; takes ten minutes or more.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
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
    from lightning.pytorch.callbacks import Callback
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

    watch = stopwatch(Callback)
    data = NamesDataModule()
    data.setup("fit")
    loader = DataLoader(TensorDataset(*data.train_set[:]), batch_size=BATCH_SIZE, shuffle=True)
    Trainer(max_steps=steps, accelerator="cpu", callbacks=[watch]).fit(Model(), loader)
    return watch.seconds


def stopwatch(base: type):
    class Stopwatch(base):
        """Seconds from the start of the first epoch to the end of training."""

        def on_train_epoch_start(self, trainer, _):
            if trainer.current_epoch == 0:
                self.start = time.perf_counter()

        def on_train_end(self, trainer, _):
            self.seconds = time.perf_counter() - self.start

    return Stopwatch()


def jax_scan(steps: int) -> float:
    """Only the updates, as one compiled loop. Seconds in it, compiled beforehand."""
    import jax
    import jax.numpy as jnp

    from namemlp import NamesDataModule

    data = NamesDataModule()
    data.setup("fit")
    x, y = (jnp.asarray(each.numpy().copy()) for each in data.train_set[:])
    shapes = {"C": (27, 5), "W1": (15, 200), "b1": (200,), "W2": (200, 27), "b2": (27,)}
    keys = jax.random.split(jax.random.PRNGKey(0), len(shapes))
    parameters = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys, strict=True)}

    def loss_of(p, ix):
        h = jnp.tanh(p["C"][x[ix]].reshape(len(ix), -1) @ p["W1"] + p["b1"])
        logits = jax.nn.log_softmax(h @ p["W2"] + p["b2"])
        return -jnp.take_along_axis(logits, y[ix][:, None], 1).mean()

    def update(p, ix):
        loss, gradients = jax.value_and_grad(loss_of)(p, ix)
        return jax.tree.map(lambda w, g: w - LR * g, p, gradients), loss

    run = jax.jit(lambda p, order: jax.lax.scan(update, p, order))
    order = jax.random.randint(jax.random.PRNGKey(1), (steps, BATCH_SIZE), 0, len(x))
    jax.block_until_ready(run(parameters, order))
    start = time.perf_counter()
    jax.block_until_ready(run(parameters, order))
    return time.perf_counter() - start


CHILDREN = {each.__name__: each for each in (notebook, plain_lightning, jax_scan)}


def whole_process(command: list[str], folder: str, threads: int, **variables: str) -> tuple[float, str]:
    """Seconds of a process and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **variables}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, done.stdout


def child(name: str, steps: int, folder: str, threads: int) -> tuple[float, float]:
    """Seconds of steps and of the whole process of one of the functions above."""
    seconds, out = whole_process([__file__, "--child", name, "--steps", str(steps)], folder, threads)
    return json.loads(out.splitlines()[-1]), seconds


def command(folder: str, steps: int, threads: int, cache: str, *more: str) -> tuple[float, float]:
    """The same of `namemlp fit`, with everything that configs/base.yaml turns on."""
    fit = ["-m", "namemlp", "fit", "--config", str(ROOT / "configs" / "base.yaml")]
    fit += ["--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", *more]
    seconds, out = whole_process(fit, folder, threads, NUMBA_CACHE_DIR=cache)
    return steps / float(re.findall(r"([\d,]+) steps/s", out)[-1].replace(",", "")), seconds


def runs_table(steps: int, rounds: int, threads: int) -> None:
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            where = dict(folder=folder, steps=steps, threads=threads)
            one_by_one = ("--model.updates_per_block=1",)
            results = {
                "the notebook's loop": child("notebook", **where),
                "plain Lightning, no validation": child("plain_lightning", **where),
                "namemlp, textbook path": command(folder, steps, threads, cache, *one_by_one),
                "namemlp, the first run on a machine": command(folder, steps, threads, cache),
                "namemlp": command(folder, steps, threads, cache),
            }
            if importlib.util.find_spec("jax"):
                results["JAX, lax.scan, updates only"] = child("jax_scan", **where)
        for name, result in results.items():
            times.setdefault(name, []).append(result)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    reference = medians["the notebook's loop"]
    print(f"\n| {steps:,} steps | s | µs a step | ratio | whole process, s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (seconds, whole) in medians.items():
        step, ratios = seconds / steps * 1e6, (seconds / reference[0], whole / reference[1])
        print(f"| {name} | {seconds:.2f} | {step:,.1f} | {ratios[0]:.2f} | {whole:.2f} | {ratios[1]:.2f} |")


def sizes_table(rounds: int) -> None:
    import logging
    import warnings

    import torch
    from lightning import Trainer
    from lightning.pytorch.callbacks import Callback

    from namemlp import NameModule, NamesDataModule, engines

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    limit, engines.LARGEST_UPDATE = engines.LARGEST_UPDATE, float("inf")  # blocks also where fit would not take them
    threads = torch.get_num_threads()
    off = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, logger=False)

    def microseconds(updates_per_block: int, steps: int, hidden: int, batch: int, context: int) -> float:
        data = NamesDataModule(context_length=context, batch_size=batch)
        data.setup("fit")
        model = NameModule(
            data.vocabulary.characters, context, hidden_size=hidden, init="scaled", updates_per_block=updates_per_block
        )
        watch = stopwatch(Callback)
        Trainer(max_steps=steps, callbacks=[watch], limit_val_batches=0, accelerator="cpu", **off).fit(
            model, datamodule=data
        )
        return watch.seconds / steps * 1e6

    print(
        "\n| hidden / batch / context | million multiply-adds | textbook, µs a step | in blocks | ratio | fit takes |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    sizes = [(hidden, 32, 3) for hidden in (100, 200, 500, 1000, 2000)]
    sizes += [(200, batch, 3) for batch in (128, 512, 1024, 4096)]
    sizes += [(200, 32, context) for context in (8, 16, 32)]
    sizes += [(1000, 512, 3), (1000, 32, 16), (2000, 4096, 3)]
    for hidden, batch, context in sizes:
        work = 3 * batch * hidden * (27 + 5 * context)
        steps = int(min(2000, max(10, 3e9 / work)))
        times = [[microseconds(each, steps, hidden, batch, context) for each in (1, 500)] for _ in range(rounds)]
        textbook, in_blocks = (statistics.median(column) for column in zip(*times, strict=True))
        taken = "textbook" if work * (threads - 1) > limit * threads else "blocks"
        print(f"| {hidden:,} / {batch:,} / {context} | {work / 1e6:,.1f} | {textbook:,.0f} | {in_blocks:,.0f} ", end="")
        print(f"| {in_blocks / textbook:.2f} | {taken} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--sizes-only", action="store_true", help="the second table only")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](args.steps)))
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if not args.sizes_only:
        runs_table(args.steps, args.rounds, args.threads)
    sizes_table(args.rounds)
    import lightning
    import torch

    print(
        f"\n{args.threads} threads, torch {torch.__version__}, lightning {lightning.__version__}, {platform.platform()}"
    )


if __name__ == "__main__":
    main()
