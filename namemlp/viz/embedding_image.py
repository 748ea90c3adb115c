"""The picture of an embedding for TensorBoard, by Pillow: Matplotlib takes ten times as long."""

import importlib.util
import io
import unicodedata
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from namemlp.vocabulary import END

WIDTH, TOP, MARGIN = 340, 30, 20  # pixels; TensorBoard shows as many
MAX_CHARACTERS = 300
COLORS = {"vowel": "#d1495b", "consonant": "#1f5fa8", "end mark": "#2a9d4a", "other": "#777777"}
VOWELS = set("aeiouøæœıə" + "аеиоуыэюяєі" + "αεηιουω")  # of Latin, Cyrillic and Greek letters, without accents
FONT = Path(importlib.util.find_spec("matplotlib").origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"


def pca_2d(weights: Tensor) -> tuple[Tensor, float | None]:
    """An embedding by its two first principal axes, (V, 2), and their share of the variance; None: as it is."""
    if weights.shape[1] <= 2:
        return torch.nn.functional.pad(weights, (0, 2 - weights.shape[1])), None
    centered = weights - weights.mean(0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else it may be mirrored next time
    return centered @ axes[:2].T, ((sizes[:2] ** 2).sum() / (sizes**2).sum()).item()


def render_embedding(weights: Tensor, characters: str) -> tuple[bytes, tuple[int, int]]:
    """The characters at the places of their embedding, (V, C) weights, as a PNG and its size."""
    places, share = pca_2d(weights.detach().float().cpu())
    title = "embedding"
    if len(characters) > MAX_CHARACTERS:
        title += f" of {MAX_CHARACTERS} of {len(characters):,} characters"
        characters, places = characters[:MAX_CHARACTERS], places[:MAX_CHARACTERS]
    if share is not None:
        title += f": 2 of {weights.shape[1]} principal axes, {share:.0%} of the variance"
    low, high = places.aminmax(dim=0)
    places = (places - low) / (high - low).clamp(min=1e-9)  # 0 to 1
    places[:, 1] = 1 - places[:, 1]  # a picture's rows count from the top
    places = places * (WIDTH - 2 * MARGIN) + torch.tensor([MARGIN, TOP + MARGIN])
    image, encoded = Image.new("RGB", (WIDTH, WIDTH + 2 * TOP), "white"), io.BytesIO()
    canvas = ImageDraw.Draw(image)
    small, large = (ImageFont.truetype(str(FONT), points) for points in (11, 17))
    canvas.rectangle((4, TOP, WIDTH - 5, TOP + WIDTH - 1), outline="#bbbbbb")
    canvas.text((WIDTH / 2, TOP / 2), title, COLORS["other"], small, "mm")
    kinds = [character_class(character) for character in characters]
    for character, kind, place in zip(characters, kinds, places.tolist(), strict=True):
        canvas.text(place, "end" if character == END else label(character), COLORS[kind], large, "mm")
    legend = [kind for kind in COLORS if kind in kinds]
    for i, kind in enumerate(legend):
        canvas.text((WIDTH * (i + 0.5) / len(legend), WIDTH + 1.5 * TOP), kind, COLORS[kind], small, "mm")
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), image.size


def character_class(character: str) -> str:  # what kind of character it is, a key of COLORS
    if character == END:
        return "end mark"
    plain = unicodedata.normalize("NFD", character)[0].lower()
    is_letter = unicodedata.name(plain, "").startswith(("LATIN ", "CYRILLIC ", "GREEK "))
    return "vowel" if plain in VOWELS else "consonant" if is_letter else "other"


def label(character: str) -> str:  # the character where it can be seen, else its code point
    return character if character.isprintable() and not character.isspace() else f"U+{ord(character):04X}"
