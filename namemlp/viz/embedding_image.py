"""Pictures for TensorBoard, of the embedding and of the tanh units, by Pillow: Matplotlib takes ten times as long."""

import functools
import io

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from namemlp.viz.labels import FONT, character_classes, drawn_labels, load_font

WIDTH, TOP, MARGIN, DOT = 340, 30, 20, 2  # pixels; TensorBoard shows as many; more if the labels need it
SMALL, LARGE = 11, 17  # font sizes
MAX_CHARACTERS = 300
COLORS = {"vowel": "#d1495b", "consonant": "#1f5fa8", "end mark": "#2a9d4a", "other": "#777777"}


def pca_2d(weights: Tensor) -> tuple[Tensor, float | None]:
    """An embedding by its two first principal axes, (V, 2), and their share of the variance; None: as it is."""
    if weights.shape[1] <= 2:
        return torch.nn.functional.pad(weights, (0, 2 - weights.shape[1])), None
    centered = weights - weights.mean(0)
    _, sizes, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else it may be mirrored next time
    return centered @ axes[:2].T, ((sizes[:2] ** 2).sum() / (sizes**2).sum()).item()


def render_embedding(weights: Tensor, characters: str) -> tuple[bytes, tuple[int, int]]:
    """The characters of a vocabulary at the places of their embedding, (V, C) weights, as a PNG and its size."""
    title, characters, places, positions = arrange_embedding(weights, characters)
    labels, fonts, boxes, width = measure_labels(characters)
    image, encoded = Image.new("RGB", (width, width + 2 * TOP), "white"), io.BytesIO()
    canvas, small = ImageDraw.Draw(image), load_font(FONT, SMALL)
    canvas.rectangle((4, TOP, width - 5, TOP + width - 1), outline="#bbbbbb")
    canvas.text((width / 2, TOP / 2), title, COLORS["other"], small, "mm")
    kinds = character_classes(characters)
    places, positions = (points + np.array([0, TOP]) for points in (places, positions))
    for place, position, box, kind in zip(places, positions, boxes, kinds, strict=True):
        if (place != position).any():
            nearest = place.clip(position + box[:2], position + box[2:])
            canvas.line((*place.tolist(), *nearest.tolist()), "#bbbbbb")
            canvas.rectangle((*(place - 1).tolist(), *(place + 1).tolist()), COLORS[kind])
    for label, font, position, kind in zip(labels, fonts, positions.tolist(), kinds, strict=True):
        canvas.text(position, label, COLORS[kind], font, "mm")
    legend = [kind for kind in COLORS if kind in kinds]
    for i, kind in enumerate(legend):
        canvas.text((width * (i + 0.5) / len(legend), width + 1.5 * TOP), kind, COLORS[kind], small, "mm")
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), image.size


def arrange_embedding(weights: Tensor, characters: str) -> tuple[str, str, np.ndarray, np.ndarray]:
    """A title, the characters that are shown, and where: their places and those of their labels in pixels, (V, 2)."""
    places, share = pca_2d(weights.detach().float().cpu())
    title = "embedding"
    if len(characters) > MAX_CHARACTERS:
        title += f" of {MAX_CHARACTERS} of {len(characters):,} characters"
        characters, places = characters[:MAX_CHARACTERS], places[:MAX_CHARACTERS]
    if share is not None:
        title += f": 2 of {weights.shape[1]} principal axes, {share:.0%} of the variance"
    _, _, boxes, width = measure_labels(characters)
    low, high = places.aminmax(dim=0)
    places = (places - low) / (high - low).clamp(min=1e-9)  # 0 to 1
    places[:, 1] = 1 - places[:, 1]  # a picture's rows count from the top
    margin = max(MARGIN, np.abs(boxes).max() + 6)
    places = (places * (width - 2 * margin) + margin).round().int().numpy()
    return title, characters, places, place_labels(places, boxes, width)


def render_saturation(is_saturated: Tensor) -> tuple[bytes, tuple[int, int]]:
    """Which tanh units are saturated for which examples, (B, H), as a PNG and its size: units from left to right."""
    pixels = is_saturated[:WIDTH, :WIDTH].cpu().numpy().astype(np.uint8) * 255
    image, encoded = Image.new("RGB", (WIDTH, WIDTH + 2 * TOP), "white"), io.BytesIO()
    canvas, small = ImageDraw.Draw(image), load_font(FONT, SMALL)
    canvas.text((WIDTH / 2, TOP / 2), "tanh units (columns) for examples (rows)", COLORS["other"], small, "mm")
    image.paste(Image.fromarray(pixels).resize((WIDTH, WIDTH), Image.Resampling.NEAREST), (0, TOP))
    text = "white: saturated; a white column: a dead unit"
    canvas.text((WIDTH / 2, WIDTH + 1.5 * TOP), text, COLORS["other"], small, "mm")
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), image.size


@functools.cache
def measure_labels(characters: str) -> tuple[list[str], list[ImageFont.FreeTypeFont], np.ndarray, int]:
    """Labels, their fonts, the boxes around their places, (V, 4), and the width of a picture with room for them."""
    labels, files = drawn_labels(characters)
    sizes = [SMALL if label.startswith("U+") else LARGE for label in labels]
    fonts = [load_font(file, size) for file, size in zip(files, sizes, strict=True)]
    boxes = [font.getbbox(label, anchor="mm") for label, font in zip(labels, fonts, strict=True)]
    boxes = np.array(boxes, dtype=int) + np.array([-1, -1, 1, 1])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).sum()
    return labels, fonts, boxes, max(WIDTH, int((5 * area) ** 0.5))


def place_labels(places: np.ndarray, boxes: np.ndarray, width: int) -> np.ndarray:
    """Where labels are to be drawn, (V, 2): at their places, or near them where they would cover each other.

    Args:
        places: x and y of each in a square of `width` pixels, (V, 2)
        boxes: left, top, right and bottom of each around its place, (V, 4)
        width: of the square
    """
    areas, taken = np.tile(places, 2) + boxes, np.ones((width, width), bool)
    taken[2:-2, 6:-6] = False  # the rest is its frame
    overlap = (areas[:, None, :2] < areas[None, :, 2:]).all(2)
    crowded = (overlap & overlap.T).sum(1) > 1  # another one than itself
    for left, top, right, bottom in areas[~crowded]:
        taken[top:bottom, left:right] = True
    for x, y in places[crowded]:
        taken[y - DOT : y + DOT + 1, x - DOT : x + DOT + 1] = True
    positions = places.copy()
    for i in np.flatnonzero(crowded):
        w, h = boxes[i, 2:] - boxes[i, :2]
        for reach in (20, 60, 180, width):  # around its place, in the end everywhere
            x, y = start = (areas[i, :2] - reach).clip(0)
            part = taken[y : areas[i, 3] + reach, x : areas[i, 2] + reach]
            sums = np.pad(part.cumsum(0, np.int32).cumsum(1, np.int32), ((1, 0), (1, 0)))
            filled = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]  # by the top left corner of a box
            if not filled.min():
                break
        gaps = [
            np.maximum(corner - place, place - corner - size).clip(0)
            for corner, place, size in zip(map(np.arange, filled.T.shape), places[i] - start, (w, h), strict=True)
        ]
        y, x = np.unravel_index((gaps[0] ** 2 + gaps[1][:, None] ** 2 + 1e6 * filled).argmin(), filled.shape)
        x, y = start + np.array([x, y])
        taken[y : y + h, x : x + w] = True
        positions[i] = [x, y] - boxes[i, :2]
    return positions
