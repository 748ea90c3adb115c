import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from namemlp import UserError, Vocabulary
from namemlp.vocabulary import code_points


def test_end_mark_is_0_and_characters_count_from_1_in_sorted_order():
    vocabulary = Vocabulary.of(code_points("hannah.bob."))
    assert vocabulary.characters == ".abhno"
    assert vocabulary.encode("bob.").tolist() == [2, 5, 2, 0]
    assert len(vocabulary) == 6


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_comes_back(text):
    vocabulary = Vocabulary.of(code_points(text))
    assert vocabulary.characters == "." + "".join(sorted(set(text) - {"."}))
    ids = vocabulary.encode(text)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [vocabulary.characters.index(c) for c in text]
    assert vocabulary.decode(ids) == text


def test_unknown_characters_are_shown():
    with pytest.raises(UserError, match="2 characters that the model does not know: 'é', '李'"):
        Vocabulary(".abc").encode("aé李b")


@pytest.mark.parametrize("characters", ["", "abc", "a.", ".aa", "..a"])
def test_a_wrong_vocabulary_is_refused(characters):
    with pytest.raises(UserError, match="must start with"):
        Vocabulary(characters)


@pytest.mark.parametrize(("size", "bits"), [(2, 8), (256, 8), (257, 16), (2**15, 16), (2**15 + 1, 32)])
def test_ids_take_as_few_bytes_as_they_can(size, bits):
    vocabulary = Vocabulary("." + "".join(chr(0x10000 + i) for i in range(size - 1)))
    assert vocabulary.dtype(0).nbytes * 8 == bits
    last = vocabulary.characters[-1]
    assert vocabulary.ids(code_points(last)).astype(vocabulary.dtype).tolist() == [size - 1]
