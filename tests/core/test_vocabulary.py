import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from namemlp import UserError, Vocabulary


def test_end_mark_is_0_and_characters_count_from_1_in_sorted_order():
    vocabulary = Vocabulary.from_names(["hannah", "bob"])
    assert vocabulary.characters == ".abhno"
    assert vocabulary.encode("bob.").tolist() == vocabulary.encode("bob\0").tolist() == [2, 5, 2, 0]
    assert len(vocabulary) == 6


def test_a_full_stop_has_an_id_of_its_own_where_a_name_has_one():
    vocabulary = Vocabulary.from_names(["st. ives", "mt. hood"])
    assert vocabulary.characters == ". .dehimostv"
    assert vocabulary.encode("st.\0").tolist() == [9, 10, 2, 0]
    assert vocabulary.decode(torch.tensor([9, 10, 2, 0])) == "st.."


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_decode_is_the_inverse_of_encode(text):
    vocabulary = Vocabulary.from_names([text])
    assert vocabulary.characters == "." + "".join(sorted(set(text)))
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [vocabulary.characters.index(c, 1) for c in text]
    assert vocabulary.decode(ids) == text


def test_unknown_characters_are_shown():
    with pytest.raises(UserError, match="2 characters that the model does not know: 'é', '李'"):
        Vocabulary(".abc").encode("..aé\0李b")


@pytest.mark.parametrize("characters", ["", "abc", "a.", ".aa", "...a", ".a.b.", ".a\0", ".a\ud800"])
def test_an_invalid_vocabulary_is_an_error(characters):
    with pytest.raises(UserError, match=r"must start with '\.' and then hold each character once"):
        Vocabulary(characters)


@pytest.mark.parametrize(("size", "bits"), [(2, 8), (256, 8), (257, 16), (2**15, 16), (2**15 + 1, 32)])
def test_dtype_is_the_smallest_that_holds_every_id(size, bits):
    vocabulary = Vocabulary("." + "".join(chr(0x10000 + i) for i in range(size - 1)))
    assert np.dtype(vocabulary.dtype).itemsize * 8 == bits
    last = vocabulary.characters[-1]
    assert vocabulary.encode(last).numpy().astype(vocabulary.dtype).tolist() == [size - 1]
