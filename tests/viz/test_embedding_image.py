"""The picture of the embedding: no label covers another, and no character is an empty box."""

import io

import numpy as np
import pytest
import torch
from matplotlib.font_manager import fontManager
from PIL import Image

from namemlp.viz.embedding_image import measure_labels, place_labels, render_embedding
from namemlp.viz.labels import FONT, drawn_labels, load_font

LATIN = ".abcdefghijklmnopqrstuvwxyz '-éüö"
HAN = "." + "".join(map(chr, range(0x4E00, 0x4E00 + 299)))


@pytest.mark.parametrize("characters", [LATIN, HAN], ids=["33", "300"])
@pytest.mark.parametrize("spread", [0, 0.02, 0.3])
def test_labels_do_not_cover_each_other(characters, spread):
    _, _, boxes, width = measure_labels(characters)
    noise = torch.randn(len(characters), 2, generator=torch.Generator().manual_seed(1)).numpy()
    margin = np.abs(boxes).max() + 6
    places = (width / 2 + spread * width * noise).clip(margin, width - margin).round().astype(int)
    areas = np.tile(place_labels(places, boxes, width), 2) + boxes
    overlaps = (areas[:, None, :2] < areas[None, :, 2:]).all(2)
    assert (overlaps & overlaps.T).sum() == len(characters)  # each its own area, and no other
    assert areas.min() >= 0
    assert areas.max() <= width


def test_labels_with_room_stay_at_their_places():
    _, _, boxes, width = measure_labels(LATIN)
    row = np.arange(len(LATIN))
    places = np.stack([40 + row % 6 * 50, 40 + row // 6 * 50], 1)
    assert place_labels(places, boxes, width).tolist() == places.tolist()


def draws_an_empty_box(label, file):
    font = load_font(file, 17)
    return any(bytes(font.getmask(character)) == bytes(font.getmask("\U0010ffff")) for character in label)


def test_a_character_without_a_font_is_its_code_point(monkeypatch):
    characters = ".aé 名字"
    labels, files = drawn_labels(characters)
    assert labels[:4] == ["end", "a", "é", "␣"]
    assert files[:4] == [FONT] * 4
    assert not any(map(draws_an_empty_box, labels, files))
    monkeypatch.setattr(fontManager, "ttflist", [])  # a machine with no other font
    drawn_labels.cache_clear()
    assert drawn_labels(characters) == (["end", "a", "é", "␣", "U+540D", "U+5B57"], [FONT] * 6)
    drawn_labels.cache_clear()


@pytest.mark.parametrize("characters", [LATIN, HAN + "名字"], ids=["33", "302"])
def test_every_label_is_in_the_picture(characters):
    weights = torch.randn(len(characters), 2, generator=torch.Generator().manual_seed(1))
    png, size = render_embedding(weights, characters)
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == size
        assert size[0] >= measure_labels(characters[:300])[3]
        frame = np.asarray(image.convert("L"))[31 : size[0] + 29, 5 : size[0] - 5]
    assert (frame[[0, -1]] == 255).all()  # nothing is cut off
    assert (frame[:, [0, -1]] == 255).all()
