"""Text on pictures: plates with class names beside boxes, a line in the corner, the heading of a figure.

Written with Pillow in DejaVu Sans, which matplotlib brings along; characters that it lacks, such as Chinese ones, are
taken from a font of the system if there is one. Pictures are uint8 [H, W, 3] BGR and are changed in place.
"""
from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SMALLEST_SIZE = 7  # pixels; smaller letters cannot be read
CORNER_COLOR = (30, 30, 30)
# File names of fonts with Chinese, Japanese or Korean characters; the most complete families first.
_WIDE_FONTS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (
    r"NotoSans(Mono)?CJK|SourceHanSans", r"NotoSans(SC|TC|HK|JP|KR)\b", r"wqy-", r"DroidSansFallback",
    r"PingFang|Hiragino Sans GB|STHeiti|Arial Unicode", r"msyh|simhei|simsun|meiryo|msgothic|malgun",
    r"NotoSerifCJK|SourceHanSerif|uming|ukai|ipag|Nanum"))


class Label(NamedTuple):
    """A text for one object: its name, its number ("0.87" or ""), where and on which colour.

    box: x1, y1, x2, y2, pixels inside the picture. color: blue, green, red.
    """

    name: str
    number: str
    box: tuple[int, int, int, int]
    color: tuple[int, int, int]


class _Text(NamedTuple):
    """A text set in a size: what to write and how large its plate is."""

    text: str
    size: int
    width: int
    height: int


def draw_labels(image: np.ndarray, labels: Sequence[Label], crowded: float = 1.0) -> None:
    """Write each label on a plate of its colour at its box, inside the picture and off the other plates.

    A text too wide for the picture, or higher than a third of it, is made smaller, then its name is cut, then its
    number is left out; if nothing legible fits, it is not written.

    Args:
        image: uint8 [H, W, 3] BGR, changed.
        labels: list of Label; the first is on top and chooses its place first.
        crowded: leave out labels that would cover more than this share of themselves of earlier plates; 1 keeps all.
    """
    height, width = image.shape[:2]
    size = text_size(height, width)
    plates, taken = [], np.zeros((0, 4), np.int64)
    for label in labels:
        text = _fitting(label.name, label.number, size, width, height // 3)
        if text is None:
            continue
        plate, cover = _place_plate(label.box, text.width, text.height, height, width, taken)
        if crowded >= 1 or cover <= crowded * text.width * text.height:
            taken = np.append(taken, [plate], axis=0)
            plates.append((plate, text, label.color))
    for plate, text, color in reversed(plates):
        _write(image, plate, text, color)


def draw_corner_text(image: np.ndarray, text: str) -> None:
    """Write a line in the upper left corner, white on a dark plate, for example the frame rate of a video.

    Args:
        image: uint8 [H, W, 3] BGR, changed. text: in one line; smaller, then cut, in a small picture.
    """
    height, width = image.shape[:2]
    fitting = _fitting(text, "", math.ceil(1.2 * text_size(height, width)), width, height // 3)
    if fitting is not None:
        _write(image, (0, 0, fitting.width, fitting.height), fitting, CORNER_COLOR)


def fit_heading(heading: Any, width: float) -> None:
    """Make a text of a matplotlib figure smaller until it is not wider than so many pixels."""
    while heading.get_window_extent().width > width and heading.get_fontsize() > 1:
        heading.set_fontsize(0.95 * heading.get_fontsize())


def text_size(height: int, width: int) -> int:
    """Font size in pixels for a picture: 13 at 640 x 480, and growing slower than the picture."""
    return max(9, round(5 + min(height, width) / 60))


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast on a BGR colour: at least 4.5 to 1 (WCAG 2)."""
    blue, green, red = (value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4
                        for value in color)
    luminance = 0.0722 * blue + 0.7152 * green + 0.2126 * red
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def font_file(character: str) -> str:
    """Path of a font that has a character: DejaVu Sans, else one of the system's, else DejaVu Sans all the same."""
    return _dejavu() if character.isascii() else _font_with(character)


@functools.cache
def _dejavu() -> str:
    import matplotlib  # here, because a program that draws nothing should not wait for it

    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.lru_cache(maxsize=4096)
def _font_with(character: str) -> str:
    for path in (_dejavu(), *_wide_fonts()):
        if _opened(path).get_char_index(ord(character)):
            return path
    return _dejavu()


@functools.lru_cache(maxsize=8)
def _opened(path: str) -> Any:
    from matplotlib.ft2font import FT2Font

    return FT2Font(path)


@functools.cache
def _wide_fonts() -> tuple[str, ...]:
    """Paths of the system's fonts with many characters, the best first."""
    from matplotlib.font_manager import findSystemFonts  # its list of fonts by name may be older than a font

    found = []
    for path in findSystemFonts():
        name = os.path.basename(path)
        rank = next((rank for rank, pattern in enumerate(_WIDE_FONTS) if pattern.search(name)), None)
        if rank is not None:
            found.append((rank, "regular" not in name.lower(), path))
    return tuple(path for *_, path in sorted(found))


@functools.lru_cache(maxsize=64)
def _font(path: str, size: int) -> Any:
    return ImageFont.truetype(path, size)


def _runs(text: str, size: int) -> list[tuple[Any, str]]:
    """The text in pieces of one font each: list of (font, piece)."""
    return [(_font(path, size), "".join(piece)) for path, piece in itertools.groupby(text, key=font_file)]


def _pad(size: int) -> int:
    """Pixels between the text and the sides of its plate."""
    return max(1, round(size / 5))


@functools.lru_cache(maxsize=1024)
def _typeset(text: str, size: int) -> _Text:
    """A text in one size."""
    runs = _runs(text, size)
    metrics = [font.getmetrics() for font, _ in runs]
    width = math.ceil(sum(font.getlength(piece) for font, piece in runs)) + 2 * _pad(size)
    return _Text(text, size, width, max(up for up, _ in metrics) + max(down for _, down in metrics))


def _fitting(name: str, number: str, size: int, width: int, height: int) -> _Text | None:
    """The name and the number as large and as complete as a room of pixels allows; None if nothing fits."""
    name = " ".join(name.split())  # a line break is a space
    full = f"{name} {number}".strip()
    if not full:
        return None
    wanted = _typeset(full, size)
    share = min(1.0, width / wanted.width, height / wanted.height)
    for smaller in range(max(SMALLEST_SIZE, math.ceil(size * share)), SMALLEST_SIZE - 1, -1):
        text = _typeset(full, smaller)
        if text.width <= width and text.height <= height:
            return text
    shorter = [f"{name[:count].rstrip()}… {number}" for count in range(len(name) - 1, 2, -1) if number]
    shorter += [f"{name[:count].rstrip()}…" for count in range(len(name) - 1, 0, -1)]
    texts = (_typeset(text, SMALLEST_SIZE) for text in shorter)
    return next((text for text in texts if text.width <= width and text.height <= height), None)


def _place_plate(box: Sequence[int], plate_width: int, plate_height: int, height: int, width: int, taken: np.ndarray
                 ) -> tuple[tuple[int, int, int, int], int]:
    """The (x, y, width, height) at the box that covers least of the plates taken, and how many pixels of them."""
    x1, y1, x2, y2 = box
    right, above, lower = x2 - plate_width + 1, y1 - plate_height, y2 - plate_height + 1
    spots = np.array([(x1, above), (right, above), (x1, y2 + 1), (right, y2 + 1), (x1, y1), (x1, lower),
                      (x1, (y1 + y2 - plate_height) // 2)])
    spots = np.clip(spots, 0, (width - plate_width, height - plate_height))
    upper_left = np.maximum(spots[:, np.newaxis], taken[:, :2])
    lower_right = np.minimum(spots[:, np.newaxis] + (plate_width, plate_height), taken[:, :2] + taken[:, 2:])
    covers = np.maximum(lower_right - upper_left, 0).prod(axis=2).sum(axis=1)
    best = int(covers.argmin())
    return (int(spots[best, 0]), int(spots[best, 1]), plate_width, plate_height), int(covers[best])


def _write(image: np.ndarray, plate: tuple[int, int, int, int], text: _Text, color: tuple[int, int, int]) -> None:
    """Fill a plate and write on it; no letter leaves it."""
    x, y, width, height = plate
    stencil = Image.new("L", (width, height))
    draw = ImageDraw.Draw(stencil)
    runs = _runs(text.text, text.size)
    left, baseline = _pad(text.size), max(font.getmetrics()[0] for font, _ in runs)
    for font, piece in runs:
        draw.text((left, baseline), piece, fill=255, font=font, anchor="ls")
        left += font.getlength(piece)
    ink = np.asarray(stencil, np.float32)[:, :, np.newaxis] / 255
    image[y:y + height, x:x + width] = np.rint(color + (np.array(ink_on(color), np.float32) - color) * ink)
