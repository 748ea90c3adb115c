"""The picture of an embedding for TensorBoard, by Pillow: Matplotlib takes ten times as long."""

import importlib.util
import io
import unicodedata
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from namemlp.vocabulary import END

WIDTH, TOP, MARGIN = 340, 30, 20  # pixels; TensorBoard shows as many
MAX_CHARACTERS = 300
COLORS = {"vowel": "#d1495b", "consonant": "#1f5fa8", "end mark": "#2a9d4a", "other": "#777777"}
VOWELS = set("aeiouøæœıə" + "аеиоуыэюяєі" + "αεηιουω")  # of Latin, Cyrillic and Greek letters, without accents


def pca_2d(weights: Tensor) -> tuple[Tensor, float | None]:
    """An embedding by its two first principal axes, (V, 2), and their share of the variance; None: as it is."""
    if weights.shape[1] <= 2:
        return F.pad(weights, (0, 2 - weights.shape[1])), None
    centered = weights - weights.mean(0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else it may be mirrored next time
    axes = F.pad(axes, (0, 0, 0, 2))[:2]  # there may be one only
    return centered @ axes.T, ((sizes[:2] ** 2).sum() / (sizes**2).sum()).item()


def render_embedding(weights: Tensor, characters: str) -> tuple[bytes, tuple[int, int]]:
    """The characters at the places of their embedding, (V, C) weights, as a PNG and its size."""
    places, share = pca_2d(weights)
    shown = min(len(places), MAX_CHARACTERS)
    title = "embedding" if shown == len(places) else f"embedding of {shown} of {len(places):,} characters"
    if share is not None:
        title += f": 2 of {weights.shape[1]} principal axes, {share:.0%} of the variance"
    low, high = places[:shown].amin(0), places[:shown].amax(0)
    places = (places[:shown] - low) / (high - low).clamp(min=1e-9)  # 0 to 1
    places[:, 1] = 1 - places[:, 1]  # a picture's rows count from the top
    places = places * (WIDTH - 2 * MARGIN) + torch.tensor([MARGIN, TOP + MARGIN])

    image = Image.new("RGB", (WIDTH, WIDTH + 2 * TOP), "white")
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((4, TOP, WIDTH - 5, TOP + WIDTH - 1), outline="#bbbbbb")
    canvas.text((WIDTH / 2, TOP / 2), title, COLORS["other"], font(11), "mm")
    for character, place in zip(characters[:shown], places.tolist(), strict=True):
        text = "end" if character == END else label(character)
        canvas.text(place, text, COLORS[character_class(character)], font(17), "mm")
    kinds = [name for name in COLORS if name in map(character_class, characters[:shown])]
    for i, name in enumerate(kinds):
        canvas.text((WIDTH * (i + 0.5) / len(kinds), WIDTH + 1.5 * TOP), name, COLORS[name], font(11), "mm")
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), image.size


@cache
def font(points: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings: it has the letters of many scripts."""
    folder = Path(importlib.util.find_spec("matplotlib").origin).parent
    return ImageFont.truetype(str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), points)


def character_class(character: str) -> str:
    """What kind of character it is, a key of COLORS."""
    if character == END:
        return "end mark"
    plain = unicodedata.normalize("NFD", character)[0].lower()
    script = unicodedata.name(plain, "").split(" ")[0]
    return "vowel" if plain in VOWELS else "consonant" if script in ("LATIN", "CYRILLIC", "GREEK") else "other"


def label(character: str) -> str:
    """The character where it can be seen, else its code point."""
    return character if character.isprintable() and not character.isspace() else f"U+{ord(character):04X}"
