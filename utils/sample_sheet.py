"""Contact sheets of training samples: pictures with masks, boxes, labels and the anchors that learn them.

Pictures are uint8 [H, W, 3] BGR. N objects and n positive anchors of one picture; boxes are x1, y1, x2, y2.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.augmentations import Normalize
from utils.instances import Instances
from utils.labels import font_file
from utils.visualize import color_of, draw_objects

SMALLEST_SIDE = 440  # pixels; smaller pictures are enlarged by a whole number, so that every pixel is seen as it is
GREY = (150, 150, 150)
INK, PAPER = (30, 30, 30), (255, 255, 255)
GAP, FONT_SIZE, LINE = 12, 13, 18
_STRIPE = 9


class Tile(NamedTuple):
    """A picture, drawn, and the lines of text below it."""

    image: np.ndarray
    caption: list[str]


class Objects(NamedTuple):
    """What is drawn over one picture.

    boxes: float [N, 4], relative 0..1. masks: uint8 [N, h, w], 0 or 1, of any size. names: N texts.
    is_crowd: bool [N]. anchors: float [n, 4], relative; owners: int [n], whose they are.
    """

    boxes: np.ndarray
    masks: np.ndarray
    names: Sequence[str]
    is_crowd: np.ndarray
    anchors: np.ndarray
    owners: np.ndarray


def restore_picture(image: np.ndarray, transform: Any, means: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The picture behind a network's input: uint8 [H, W, 3] BGR.

    Args:
        image: float32 [3, H, W], normalised. transform, means, std: what it was normalised with, as for `Normalize`.
    """
    normalize = Normalize(transform, means, std)
    picture = np.empty((*image.shape[1:], 3), np.float32)
    for plane, channel in zip(image, normalize.source):
        picture[:, :, channel] = plane * normalize.divisors[channel] + normalize.means[channel]
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def draw_sample(picture: np.ndarray, objects: Objects, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Draw objects and their anchors over a picture, enlarged if it is small.

    Args:
        picture: uint8 [H, W, 3] BGR. objects: with their anchors. colors: (red, green, blue), taken in turn.

    Returns:
        uint8 [k H, k W, 3], a whole k.
    """
    factor = -(-SMALLEST_SIDE // max(picture.shape[:2]))
    height, width = picture.shape[0] * factor, picture.shape[1] * factor
    image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
    scale = np.array([width, height, width, height])
    masks = np.zeros((len(objects.masks), height, width), bool)
    for mask, target in zip(objects.masks, masks):
        target[...] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    masks[objects.is_crowd] &= _stripes(height, width)

    found = Instances(np.arange(len(masks)), None, objects.boxes * scale, masks, objects.names, height, width)
    of_objects = [GREY if crowd else color_of(number, colors) for number, crowd in enumerate(objects.is_crowd)]
    order = list(range(len(masks)))
    draw_objects(image, found, order, of_objects, show_boxes=False, show_text=False)
    for corners, owner in zip(np.rint(objects.anchors * scale).astype(int).tolist(), objects.owners.tolist()):
        cv2.rectangle(image, corners[:2], corners[2:], of_objects[owner], 1)
    for corners, color in zip(np.rint(found.boxes).astype(int).tolist(), of_objects):
        cv2.rectangle(image, corners[:2], corners[2:], color, 2)
    draw_objects(image, found, order, of_objects, show_masks=False, show_boxes=False)
    return image


def compose(tiles: Sequence[Tile], columns: int, title: str, threshold: float) -> np.ndarray:
    """Lay tiles out in rows, below a title and a legend.

    Args:
        tiles: at least one. columns: tiles in a row. title: one line. threshold: IoU of positive anchors.

    Returns:
        uint8 [H, W, 3] BGR.
    """
    columns = min(columns, len(tiles))
    cell = max(SMALLEST_SIDE, max(tile.image.shape[1] for tile in tiles)) + GAP
    width = columns * cell + GAP
    head = _head(width, title, threshold)
    parts = [head]
    for start in range(0, len(tiles), columns):
        row = tiles[start:start + columns]
        height = max(tile.image.shape[0] for tile in row)
        strip = np.full((height + LINE * max(len(tile.caption) for tile in row) + GAP, width, 3), PAPER, np.uint8)
        texts = []
        for number, tile in enumerate(row):
            x = GAP + number * cell
            strip[:tile.image.shape[0], x:x + tile.image.shape[1]] = tile.image
            texts += [(x, height + 3 + line * LINE, text) for line, text in enumerate(tile.caption)]
        parts.append(_written(strip, texts))
    return np.concatenate(parts)


def _head(width: int, title: str, threshold: float) -> np.ndarray:
    """The title and the legend, each entry behind a swatch and on a new line where the width ends."""
    entries = [("box", "object with its mask; behind its name, the number of its positive anchors"),
               ("anchor", "positive anchor of the object of this colour"),
               ("forced", f"no anchor reaches IoU {threshold:g}: its best one is positive by force"),
               ("crowd", "crowd: anchors inside it are ignored")]
    x, y, texts, swatches = GAP, GAP + LINE + 6, [(GAP, GAP - 2, title)], []
    for kind, text in entries:
        needed = 34 + int(_font().getlength(text)) + 2 * GAP
        if x > GAP and x + needed > width:
            x, y = GAP, y + LINE + 4
        swatches.append((kind, x, y))
        texts.append((x + 34, y, text))
        x += needed
    head = np.full((y + LINE + GAP, width, 3), PAPER, np.uint8)
    for kind, x, y in swatches:
        _draw_swatch(head[y:y + 15, x:x + 26], kind)
        if kind == "forced":
            texts.append((x + 10, y - 1, "!"))
    return _written(head, texts)


def _draw_swatch(part: np.ndarray, kind: str) -> None:
    """One symbol of the legend into a part of the sheet, 15 x 26 pixels."""
    if kind == "crowd":
        part[_stripes(*part.shape[:2])] = GREY
    elif kind != "forced":
        cv2.rectangle(part, (1, 1), (24, 13), (54, 67, 244), 2 if kind == "box" else 1)


def _stripes(height: int, width: int) -> np.ndarray:
    """Diagonal stripes, bool [H, W]."""
    return (np.arange(height)[:, np.newaxis] + np.arange(width)) // _STRIPE % 2 == 0


def _font() -> Any:
    return ImageFont.truetype(font_file("a"), FONT_SIZE)


def _written(image: np.ndarray, texts: Sequence[tuple[int, int, str]]) -> np.ndarray:
    """The picture with lines of text at (x, y), their upper left corners."""
    page = Image.fromarray(image)
    draw = ImageDraw.Draw(page)
    for x, y, text in texts:
        draw.text((x, y), text, fill=INK, font=_font())
    return np.asarray(page)
