from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from namemlp import NameModule, NamesDataModule
from namemlp.windows import ContextDataset, EpochSampler, TrainingLoader, collate


def examples(n=10, context_length=2):
    """One long name of the characters 1 to n, without an end mark."""
    return ContextDataset(np.arange(1, n + 1, dtype=np.uint8), context_length)


def batches_of(sampler):
    """The batches of one pass of a sampler, as lists of indices."""
    indices = list(sampler)
    return [indices[i : i + sampler.batch_size] for i in range(0, len(indices), sampler.batch_size)]


@pytest.mark.parametrize("index", [[5, 2, 9], torch.tensor([5, 2, 9])])
def test_an_index_of_many_examples(index):
    x, y = examples()[index]
    assert x.tolist() == [[4, 5], [1, 2], [8, 9]]
    assert y.tolist() == [6, 3, 10]
    assert x.dtype == y.dtype == torch.int64


def test_an_index_of_blocks_of_batches():
    index = torch.tensor([[5, 2, 9], [0, 1, 4]])
    x, y = examples()[index]
    assert (x.shape, y.shape) == ((2, 3, 2), (2, 3))
    for k in range(2):
        assert torch.equal(x[k], examples()[index[k]][0])
        assert torch.equal(y[k], examples()[index[k]][1])


def test_one_example_and_a_slice():
    x, y = examples()[6]
    assert (x.tolist(), y.item()) == ([5, 6], 7)
    x, y = examples()[8:]
    assert x.tolist() == [[7, 8], [8, 9]]
    assert y.tolist() == [9, 10]


def test_a_context_starts_with_end_marks_and_never_reaches_into_the_previous_name():
    x, y = ContextDataset(np.array([1, 2, 0, 3, 0], np.uint8), 3)[:]
    assert x.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 3]]
    assert y.tolist() == [1, 2, 0, 3, 0]


def test_a_loader_collates_the_batches_that_the_dataset_has_stacked():
    sampler = EpochSampler(examples(), batch_size=4, seed=1)
    loader = TrainingLoader(examples(), sampler=sampler, batch_size=4, collate_fn=collate)
    batches = list(loader)
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert len(loader) == 3
    x, y = examples()[sampler.order(0)]
    assert torch.equal(torch.cat([x for x, _ in batches]), x)
    assert torch.equal(torch.cat([y for _, y in batches]), y)


def test_every_pass_reads_every_example_once_in_a_new_order():
    sampler = EpochSampler(range(10), batch_size=4, seed=1)
    first, second = list(sampler), list(sampler)
    assert len(sampler) == 10
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert (first, second) == (sampler.order(0).tolist(), sampler.order(1).tolist())


def test_after_set_epoch_every_pass_reads_that_epoch():
    sampler = EpochSampler(range(10), batch_size=4, seed=1)
    list(sampler)
    sampler.set_epoch(5)
    assert list(sampler) == list(sampler) == sampler.order(5).tolist()


def test_an_order_is_a_pure_function_of_seed_and_epoch():
    sampler = EpochSampler(range(1000), batch_size=4, seed=1)
    third = sampler.order(2).clone()
    torch.manual_seed(0)
    list(sampler)
    assert torch.equal(sampler.order(2), third)
    assert torch.equal(EpochSampler(range(1000), 32, seed=1).order(2), third)  # whatever the batch size
    assert not torch.equal(EpochSampler(range(1000), 4, seed=2).order(1), third)  # seed + epoch would be equal


def test_with_replacement_batches_are_full_and_examples_are_independent():
    sampler = EpochSampler(range(1001), batch_size=10, seed=1, replacement=True)
    batches = batches_of(sampler)
    assert {len(batch) for batch in batches} == {10}
    assert len(batches) == 101
    assert len(sampler) == 1010
    distinct = len({i for batch in batches for i in batch})
    assert 0.58 < distinct / 1001 < 0.69  # 1 - 1/e = 0.63 of all


@pytest.mark.parametrize("n", [1, 2, 3, 59, 60, 61, 62, 63, 119])
@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("replacement", [False, True])
def test_processes_share_an_epoch(n, num_processes, replacement):
    samplers = [
        EpochSampler(range(n), 20 // num_processes, 1, replacement, None, (num_processes, process))
        for process in range(num_processes)
    ]
    steps = list(zip(*map(batches_of, samplers), strict=True))  # as many batches for each process
    for sampler in samplers:
        assert len(sampler) == len(list(sampler))
    alone = EpochSampler(range(n), samplers[0].step_size, 1, replacement)  # one process with the same step
    for batch, (step, expected) in enumerate(zip(steps, batches_of(alone), strict=True)):
        weights = [sampler.loss_weight(batch) for sampler in samplers]
        read = [indices if weight else [] for indices, weight in zip(step, weights, strict=True)]
        assert [i for indices in read for i in indices] == expected
        assert max(map(len, read)) - min(map(len, read)) <= 1
    if not replacement:
        assert sorted(i for batch in batches_of(alone) for i in batch) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 4, 59, 61, 62, 65])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_loss_weights_make_the_mean_over_processes_that_over_all_examples(n, num_processes):
    losses = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    samplers = [EpochSampler(range(n), 5, 1, False, None, (num_processes, process)) for process in range(num_processes)]
    steps = list(zip(*map(batches_of, samplers), strict=True))
    for batch, step in enumerate(steps):
        weighted = [s.loss_weight(batch) * losses[i].mean() for s, i in zip(samplers, step, strict=True)]
        all_examples = samplers[0].order(0)[batch * 5 * num_processes : (batch + 1) * 5 * num_processes]
        torch.testing.assert_close(sum(weighted) / num_processes, losses[all_examples].mean(), rtol=1e-12, atol=0)
    assert all(sampler.loss_weight(batch) == 1 for sampler in samplers for batch in range(len(steps) - 1))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7])
def test_a_resumed_run_reads_the_batches_that_are_left(folder, num_workers, stop):
    """Not those after the batches that workers have prefetched."""

    def read(ckpt_path=None):
        data = NamesDataModule("names.txt", batch_size=150, num_workers=num_workers)
        model, batches = NameModule(data.vocabulary.characters, hidden_size=20), []
        model.on_train_batch_start = lambda batch, _: batches.append(batch[1].tolist())
        saver = ModelCheckpoint(folder, save_top_k=-1, filename="{step}", every_n_train_steps=1)
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        trainer = Trainer(max_steps=9, callbacks=[saver], **quiet)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        assert trainer.num_training_batches == 3
        return batches

    whole = read()
    assert len(whole) == 9
    assert read(folder / f"step={stop}.ckpt") == whole[stop:]


def test_a_copy_of_a_sampler_holds_neither_trainer_nor_order():
    """What a worker gets."""
    sampler = EpochSampler(range(10), 4, seed=1, trainer=SimpleNamespace(training=False))
    list(sampler)
    state = sampler.__getstate__()
    assert state["trainer"] is None
    assert not any(torch.is_tensor(value) for value in state.values())
