"""Labels of a vocabulary's characters in pictures, and fonts that have them."""

import functools
import importlib.util
import unicodedata
from contextlib import suppress
from pathlib import Path

from PIL import ImageFont

VOWELS = set("aeiouøæœıə" + "аеиоуыэюяєі" + "αεηιουω")  # of Latin, Cyrillic and Greek letters, without accents
FONT = str(Path(importlib.util.find_spec("matplotlib").origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf")


def character_classes(characters: str) -> list[str]:
    """What kind of character each of a vocabulary is: end mark (its first), vowel, consonant or other."""
    return ["end mark", *map(character_class, characters[1:])]


def character_class(character: str) -> str:
    plain = unicodedata.normalize("NFD", character)[0].lower()
    is_letter = unicodedata.name(plain, "").startswith(("LATIN ", "CYRILLIC ", "GREEK "))
    return "vowel" if plain in VOWELS else "consonant" if is_letter else "other"


def character_labels(characters: str) -> list[str]:
    """The characters of a vocabulary, with `end` for the end mark, its first; code points of what cannot be seen."""
    return ["end", *map(label, characters[1:])]


def label(character: str) -> str:
    if character == " ":
        return "␣"
    return character if character.isprintable() and not character.isspace() else code_point(character)


def code_point(character: str) -> str:
    return f"U+{ord(character):04X}"


@functools.cache
def drawn_labels(characters: str) -> tuple[list[str], list[str]]:
    """The labels of a vocabulary and the font file of each; a character that no font has is drawn as its code point."""
    labels, font = character_labels(characters), load_font(FONT, 17)
    empty_box = bytes(font.getmask("\U0010ffff"))
    missing = [text for text in labels if len(text) == 1 and bytes(font.getmask(text)) == empty_box]
    files = find_fonts(missing) if missing else {}
    drawn = [code_point(text) if text in missing and text not in files else text for text in labels]
    return drawn, [files.get(text, FONT) for text in drawn]


def find_fonts(characters: list[str]) -> dict[str, str]:
    """The font file of each of the characters that this machine has one for, of as few fonts as possible."""
    from matplotlib.font_manager import fontManager  # the import takes 0.1 s, and long where it lists all fonts first
    from matplotlib.ft2font import FT2Font

    missing, files, codes = set(map(ord, characters)), {}, {}
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.style != "normal", entry.weight != 400)):
        if "LastResort" not in entry.fname:  # it has a box for every character
            with suppress(OSError, RuntimeError):  # a file that is gone or damaged
                codes[entry.fname] = missing & FT2Font(entry.fname).get_charmap().keys()
                if codes[entry.fname] == missing:
                    break
    while codes and (best := max(codes, key=lambda file: len(codes[file] & missing))) and codes[best] & missing:
        files |= {chr(code): best for code in codes[best] & missing}
        missing -= codes[best]
    return files


@functools.cache
def load_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
