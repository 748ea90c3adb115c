import numpy as np
import pytest
import torch

from namemlp.windows import ContextWindows, TrainingLoader, TrainingOrder


def windows(n=10, context_length=2):
    return ContextWindows(np.arange(1, n + context_length + 1, dtype=np.uint8), context_length)


@pytest.mark.parametrize("index", [[3, 0, 7], torch.tensor([3, 0, 7])])
def test_a_batch_is_read_at_once(index):
    x, y = windows()[index]
    assert x.tolist() == [[4, 5], [1, 2], [8, 9]]
    assert y.tolist() == [6, 3, 10]
    assert x.dtype == y.dtype == torch.int64


def test_one_example_and_a_slice():
    x, y = windows()[4]
    assert (x.tolist(), y.item()) == ([5, 6], 7)
    x, y = windows()[8:]
    assert x.tolist() == [[9, 10], [10, 11]]


@pytest.mark.parametrize("n", [1, 5, 70_000_000])
def test_examples_are_spread_from_the_first_to_the_last(n):
    spread = ContextWindows(np.broadcast_to(np.uint8(0), n + 2), 2).spread(32)
    assert (spread[0], spread[-1], len(spread)) == (0, n - 1, min(n, 32))
    assert (spread.diff() > 0).all()


def test_an_epoch_reads_every_example_once_and_the_next_in_another_order():
    order = TrainingOrder(10, batch_size=4, seed=1)
    first = list(order)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(order) == 3
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    order.batches_read = 3
    second = torch.cat(list(order)).tolist()
    assert sorted(second) == list(range(10))
    assert second != torch.cat(first).tolist()


def test_an_epoch_is_a_pure_function_of_seed_and_number():
    order = TrainingOrder(1000, batch_size=4, seed=1)
    third = order.epoch(2)
    torch.manual_seed(0)
    list(order)
    assert torch.equal(order.epoch(2), third)
    assert torch.equal(TrainingOrder(1000, 32, seed=1).epoch(2), third)  # whatever the batch size
    assert not torch.equal(TrainingOrder(1000, 4, seed=2).epoch(1), third)  # seed + epoch would be equal


def test_with_replacement_batches_are_full_and_examples_come_as_they_may():
    order = TrainingOrder(1001, batch_size=10, seed=1, replacement=True)
    batches = list(order)
    assert {len(batch) for batch in batches} == {10}
    assert len(batches) == len(order) == 101
    distinct = len(set(torch.cat(batches).tolist()))
    assert 0.58 < distinct / 1001 < 0.69  # 1 - 1/e = 0.63 of all


@pytest.mark.parametrize("n", [1, 2, 3, 59, 60, 61, 62, 63, 119])
@pytest.mark.parametrize("num_replicas", [2, 3])
def test_processes_share_an_epoch(n, num_replicas):
    orders = [
        TrainingOrder(n, 20 // num_replicas, seed=1, num_replicas=num_replicas, rank=r) for r in range(num_replicas)
    ]
    updates = list(zip(*map(list, orders), strict=True))
    assert len(updates) == len(orders[0])
    for batch, update in enumerate(updates):
        assert orders[0].examples_in(batch) == sum(map(len, update))
        assert max(map(len, update)) - min(map(len, update)) <= 1
    read = [i for update in updates for part in update for i in part.tolist()]
    assert sorted(read) == list(range(n))
    update_size = orders[0].update_size
    alone = TrainingOrder(n, update_size, seed=1)  # then an update is that of one process with the same batch
    assert [torch.cat(update).tolist() for update in updates] == [batch.tolist() for batch in alone]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4, 7])
def test_the_loader_goes_on_where_it_stopped(stop, num_workers):
    def loader():
        order = TrainingOrder(10, batch_size=4, seed=5)
        return TrainingLoader(windows(), sampler=order, batch_size=None, num_workers=num_workers)

    def take(loader, n):
        taken = []
        while len(taken) < n:
            for _, y in loader:
                taken.append(y.tolist())
                if len(taken) == n:
                    break
        return taken

    whole = take(loader(), 9)
    first = loader()
    taken = take(first, stop)
    assert first.state_dict()["batches_read"] == stop  # not what workers have prepared ahead
    second = loader()
    second.load_state_dict(first.state_dict())
    assert taken + take(second, 9 - stop) == whole
