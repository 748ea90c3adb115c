import gc
import random
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from namemlp import NameModule, NamesDataModule, UserError
from tests.helpers import SMALL_LIST


@pytest.fixture
def data(folder):
    data = NamesDataModule("names.txt", context_length=4, batch_size=7)
    data.setup("fit")
    return data


def test_the_bundled_list_is_the_default():
    data = NamesDataModule()
    data.setup("fit")
    assert len(data.train_set) + len(data.val_set) + len(data.test_set) == 229_201
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (183_430, 22_953, 22_818)


def test_splits_are_whole_names_and_cover_the_list(data):
    ends = [int((split[:][1] == 0).sum()) for split in (data.train_set, data.val_set, data.test_set)]
    assert ends == [64, 8, 8]
    for split in (data.train_set, data.val_set, data.test_set):
        x, y = split[:]
        assert not x[0].any()  # starts with a name's start
        assert y[-1] == 0  # ends with a name's end
    assert len(data.train_set) + len(data.val_set) + len(data.test_set) == sum(len(name) + 1 for name in SMALL_LIST)


def split_names(data):
    """The names of the three splits, in their order."""
    splits = (data.train_set, data.val_set, data.test_set)
    return [data.vocabulary.decode(split[:][1])[:-1].split(".") for split in splits]


REPEATED = ["ann", "bo", "cleo", "ann", "dora", "eve", "bo", "fay", "gil", "ann", "hal", "ivo", "jan", "kay", "lee"] * 2


@pytest.mark.parametrize("duplicates", ["keep", "drop", "together"])
def test_repeated_names(folder, duplicates):
    (folder / "repeated.txt").write_text("\n".join(REPEATED))
    data = NamesDataModule("repeated.txt", split=(0.5, 0.2, 0.3), duplicates=duplicates)
    data.setup("fit")
    parts = split_names(data)
    names = list(dict.fromkeys(REPEATED)) if duplicates == "drop" else list(REPEATED)
    random.Random(42).shuffle(names)
    expected = [[], [], []]
    for i, name in enumerate(names):
        first = names.index(name) if duplicates == "together" else i
        expected[(first >= int(0.5 * len(names))) + (first >= int(0.7 * len(names)))].append(name)
    assert parts == expected
    shared = (set(parts[0]) & set(parts[1])) | (set(parts[0]) & set(parts[2])) | (set(parts[1]) & set(parts[2]))
    assert bool(shared) == (duplicates == "keep")
    assert data.splits.num_names == len(names)
    assert data.splits.sha256 == NamesDataModule("repeated.txt").splits.sha256  # it is the same list


def test_copies_kept_together_may_leave_a_part_empty(folder):
    (folder / "one.txt").write_text("ann\n" * 20)
    with pytest.raises(UserError) as error:
        NamesDataModule("one.txt", duplicates="together").setup("fit")
    assert str(error.value) == "one.txt: its copies leave a part of the split empty: set data.duplicates to keep"


def test_baseline_checks_the_parts_as_the_data_module_does(namemlp):
    Path("one.txt").write_text("ann\n" * 20)
    result = namemlp("baseline", "--data.path=one.txt", "--data.duplicates=together")
    sentence = "one.txt: its copies leave a part of the split empty: set data.duplicates to keep"
    assert (result.code, result.err) == (2, f"namemlp: error: {sentence}\n")


def test_evaluation_loaders_read_every_example_once_in_order(folder):
    data = NamesDataModule("names.txt", eval_batch_size=20)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [len(y) for _, y in batches[:-1]] == [20] * (len(batches) - 1)
    assert torch.equal(torch.cat([x for x, _ in batches]), data.val_set[:][0])
    assert torch.equal(torch.cat([y for _, y in batches]), data.val_set[:][1])


def test_predict_reads_the_whole_list_in_its_own_order(data):
    data.setup("predict")
    y = torch.cat([y for _, y in data.predict_dataloader()])
    assert data.vocabulary.decode(y) == "".join(name + "." for name in SMALL_LIST)


def test_predict_takes_a_list_too_short_to_split(folder):
    (folder / "one.txt").write_text("emma")
    data = NamesDataModule("one.txt")
    data.setup("predict")
    assert len(data.predict_set) == 5
    with pytest.raises(UserError, match="has 1 name, too few"):
        data.setup("fit")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_passes_without_a_trainer_are_two_whole_epochs(folder, num_workers):
    data = NamesDataModule("names.txt", num_workers=num_workers, batch_size=10)
    data.setup("fit")
    loader = data.train_dataloader()
    passes = [torch.cat([torch.cat([x, y[:, None]], 1) for x, y in loader]) for _ in range(2)]
    everything = torch.cat([data.train_set[:][0], data.train_set[:][1][:, None]], 1)
    assert not torch.equal(*passes)
    for examples in passes:
        assert sorted(examples.tolist()) == sorted(everything.tolist())
    end_workers(loader)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_num_workers_does_not_change_the_order(folder, num_workers):
    data = NamesDataModule("names.txt", num_workers=num_workers, batch_size=10)
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.num_workers == num_workers
    y = torch.cat([y for _, y in loader])
    assert torch.equal(y, data.train_set[loader.sampler.order(0)][1])
    end_workers(loader)


def end_workers(loader):
    """At once: as a part of larger garbage each would be waited for for 5 seconds."""
    loader._iterator = None
    gc.collect()


def test_an_epoch_of_a_trainer_reads_every_example_once(data):
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model = NameModule(data.vocabulary.characters, context_length=4)
    read = []
    model.on_train_batch_start = lambda batch, _: read.append(batch[1])
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == -(-len(data.train_set) // 7)
    assert torch.equal(torch.cat(read).sort().values, data.train_set[:][1].sort().values)


@pytest.mark.parametrize("setting", ["context_length", "batch_size", "eval_batch_size"])
def test_numbers_below_1_are_errors(setting):
    with pytest.raises(UserError, match=f"{setting} is 0: it must be at least 1"):
        NamesDataModule(**{setting: 0})
