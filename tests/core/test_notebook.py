"""What the notebook printed, from its own list. That list is not part of this project: see `notebook_list`."""

import pytest

from namemlp import NameModule, NamesDataModule


@pytest.mark.parametrize(("shuffles", "sizes"), [(1, (182_625, 22_655, 22_866)), (3, (182_437, 22_781, 22_928))])
def test_split_sizes(notebook_list, shuffles, sizes):
    data = NamesDataModule(notebook_list, shuffles=shuffles)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == sizes
    assert data.vocabulary.characters == ".abcdefghijklmnopqrstuvwxyz"


def test_loss_of_the_untrained_model(notebook_list):
    data = NamesDataModule(notebook_list, shuffles=3)
    data.setup("fit")
    model = NameModule(data.vocabulary.characters)
    losses = [model.evaluate(data.evaluation_loader(s))["loss"] for s in (data.train_set, data.val_set, data.test_set)]
    assert losses == pytest.approx([23.1838, 23.2088, 23.1928], abs=1e-3)
