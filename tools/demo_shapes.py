"""Draws one picture of the demo data set: overlapping, textured circles, squares, triangles and their masks.

Every picture is a function of (seed, split, index, size) alone. Colour and texture are drawn without looking
at the class. An instance's mask is the part of it that can be seen; a cluster of tiny shapes is one crowd
region. Coordinates are relative 0..1 unless a name says pixels.
"""
from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data.config import DEMO_CLASSES as CLASS_NAMES  # category ids 1, 2, 3

SPLITS = ("train", "val")

EMPTY_SHARE = 0.04  # images without any object
CROWD_SHARE = 0.055  # images with a crowd region (a few lose it to the objects on top)
COUNT_SHARES = (0.24, 0.30, 0.25, 0.13, 0.08)  # 1..5 objects
PAIR_SHARE = 0.35  # chance that an object is put against an earlier one of its own class
EXTENT_RANGE = (0.22, 0.65)  # diameter of a circle; squares and triangles of about the same area
MIN_VISIBLE = 0.35  # an object of which less can be seen is left out, and not drawn
MIN_VISIBLE_SHARE = 0.006  # nor one that covers less of the image than this
MIN_CROWD_VISIBLE = 0.5
SUPERSAMPLE = 4  # edges are drawn this much finer and averaged, which makes them smooth
FIXED_POINT_BITS = 4


@dataclass
class Shape:
    """One shape: class index 0..2, centre and extent relative to the image side, angle in radians."""

    label: int
    x: float
    y: float
    extent: float
    angle: float

    def outline(self) -> np.ndarray:
        """Corners as float64 [V, 2], relative; the three classes have roughly equal area for one extent."""
        corners, radius = ((48, 0.5), (4, 0.62), (3, 0.74))[self.label]
        angles = self.angle + np.arange(corners) * (2 * np.pi / corners)
        return np.stack([self.x + self.extent * radius * np.cos(angles),
                         self.y + self.extent * radius * np.sin(angles)], axis=1)


@dataclass
class Instance:
    """What one annotation says: class index 0..2, visible mask bool [H, W], crowd or not."""

    label: int
    mask: np.ndarray
    is_crowd: bool = False


@dataclass
class Scene:
    """A finished picture: image uint8 [H, W, 3] BGR and its instances, lowest first (crowds last)."""

    image: np.ndarray
    instances: list[Instance]


# ---- Where things are ----------------------------------------------------------------------------

def _random_shape(rng: np.random.RandomState) -> Shape:
    extent = rng.uniform(*EXTENT_RANGE)
    margin = 0.4 * extent  # objects may leave the image a little
    x, y = rng.uniform(margin, 1 - margin, 2)
    return Shape(rng.randint(len(CLASS_NAMES)), x, y, extent, rng.uniform(0, 2 * np.pi))


def _partner(rng: np.random.RandomState, other: Shape) -> Shape:
    """A shape of the class of `other`, against or partly over it: what boxes alone cannot separate."""
    extent = float(np.clip(other.extent * rng.uniform(0.75, 1.3), *EXTENT_RANGE))
    distance = rng.uniform(0.75, 1.05) * (extent + other.extent) / 2
    margin = 0.4 * extent
    for direction in rng.uniform(0, 2 * np.pi, 8):
        x, y = other.x + distance * np.cos(direction), other.y + distance * np.sin(direction)
        if margin <= min(x, y) and max(x, y) <= 1 - margin:
            break
    x, y = np.clip((x, y), margin, 1 - margin)
    return Shape(other.label, float(x), float(y), extent, rng.uniform(0, 2 * np.pi))


def _place_shapes(rng: np.random.RandomState, most: int) -> list[Shape]:
    """1..most shapes, later ones in front."""
    count = min(most, 1 + rng.choice(len(COUNT_SHARES), p=COUNT_SHARES))
    shapes = [_random_shape(rng)]
    while len(shapes) < count:
        paired = rng.rand() < PAIR_SHARE
        shapes.append(_partner(rng, shapes[rng.randint(len(shapes))]) if paired else _random_shape(rng))
    return shapes


def _place_crowd(rng: np.random.RandomState, shapes: Sequence[Shape]) -> list[Shape]:
    """A cluster of tiny shapes of one class, where the objects leave most room."""
    candidates = rng.uniform(0.2, 0.8, (12, 2))
    room = [min(np.hypot(x - s.x, y - s.y) - s.extent / 2 for s in shapes) for x, y in candidates]
    x, y = candidates[int(np.argmax(room))]
    label, pitch = rng.randint(len(CLASS_NAMES)), rng.uniform(0.085, 0.105)
    rows, columns = rng.randint(3, 5, 2)
    members = []
    for row in range(rows):
        for column in range(columns):
            dx, dy = (column - (columns - 1) / 2 + 0.5 * (row % 2)) * pitch, (row - (rows - 1) / 2) * pitch
            jitter = rng.uniform(-0.2, 0.2, 2) * pitch
            extent, angle = pitch * rng.uniform(0.75, 0.95), rng.uniform(0, 2 * np.pi)
            members.append(Shape(label, x + dx + jitter[0], y + dy + jitter[1], extent, angle))
    return members


# ---- How things look (nothing below is told the class) -------------------------------------------

def _random_colour(rng: np.random.RandomState, taken: Sequence[np.ndarray]) -> np.ndarray:
    """BGR float32 [3]: of eight random colours the one that differs most from those taken."""
    colours = np.array([colorsys.hsv_to_rgb(hue, 0.25 + 0.7 * saturation, 0.4 + 0.55 * value)[::-1]
                        for hue, saturation, value in rng.rand(8, 3)], np.float32) * 255
    if not taken:
        return colours[0]
    return colours[np.abs(colours[:, None] - np.stack(taken)).sum(2).min(1).argmax()]


def _pattern(rng: np.random.RandomState, shape: tuple[int, int], size: int) -> np.ndarray:
    """Texture as float32 of the given shape in 0..1: stripes, waves, checks, clouds or grain.

    Args:
        shape: height and width in pixels.
        size: side of the whole image in pixels, to which the scale is relative.
    """
    kind, (height, width) = rng.randint(5), shape
    if kind in (3, 4):
        pixels = size / 96 * (rng.uniform(8, 24) if kind == 3 else rng.uniform(1.4, 3.3))  # per cell
        rows, columns = (max(2, int(np.ceil(n / pixels))) for n in shape)
        cells = np.frombuffer(rng.bytes(rows * columns), np.uint8).reshape(rows, columns)
        smooth = cv2.INTER_CUBIC if kind == 3 else cv2.INTER_LINEAR
        texture = cv2.resize(cells, (width, height), interpolation=smooth)
        return texture.astype(np.float32) * np.float32(1 / 255)
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / (rng.uniform(0.04, 0.09) * size)
    x, y = np.arange(width) * frequency, np.arange(height)[:, None] * frequency
    across = (x * np.cos(angle)).astype(np.float32) + (y * np.sin(angle)).astype(np.float32)
    if kind == 0:
        return np.clip(0.5 + np.float32(1.5) * np.sin(across), 0, 1)
    if kind == 1:
        return 0.5 + np.float32(0.5) * np.sin(across + (1.2 * np.sin(0.35 * y)).astype(np.float32))
    along = (y * np.cos(angle)).astype(np.float32) - (x * np.sin(angle)).astype(np.float32)
    return np.clip(0.5 + 2 * np.sin(across) * np.sin(along), 0, 1)


def _textured(rng: np.random.RandomState, colour: np.ndarray, contrast: float, shape: tuple[int, int],
              size: int) -> np.ndarray:
    """A surface of the colour, modulated by a pattern: float32 [*shape, 3]."""
    step = contrast * rng.uniform(0.5, 1.0) * (1 if rng.rand() < 0.5 else -1)
    shade = np.float32(step) * _pattern(rng, shape, size) + np.float32(1 - step / 2)
    return cv2.merge([shade * channel for channel in colour])


@dataclass
class Cover:
    """How much of each pixel of a window of the image a shape and its rim cover: uint8, 255 for all of it."""

    window: tuple[slice, slice]
    fill: np.ndarray
    rim: np.ndarray


def _cover(shape: Shape, size: int) -> Cover:
    """Rasterises a shape, with room for its shadow around it where the image has any."""
    corners, reach = shape.outline() * size, _shadow_reach(size)
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - reach, 0, size - 1)
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + reach, 1, size)
    corners = (corners - (left, top)) * SUPERSAMPLE - 0.5  # cv2 counts from pixel centres
    corners *= 1 << FIXED_POINT_BITS
    corners = np.round(corners).astype(np.int32)
    fill = np.zeros(((bottom - top) * SUPERSAMPLE, (right - left) * SUPERSAMPLE), np.uint8)
    rim = np.zeros_like(fill)
    cv2.fillPoly(fill, [corners], 255, shift=FIXED_POINT_BITS)
    cv2.polylines(rim, [corners], True, 255, max(1, size * SUPERSAMPLE // 48), shift=FIXED_POINT_BITS)
    fill, rim = (cv2.resize(part, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
                 for part in (fill, rim & fill))
    return Cover((slice(top, bottom), slice(left, right)), fill, rim)


def _shadow_reach(size: int) -> int:
    return max(3, size // 14) | 1


def _paint(image: np.ndarray, cover: Cover, surface: np.ndarray, rim_darkness: float) -> None:
    """Lays a surface [h, w, 3] of the window over the image in place, with a soft shadow and a darker rim."""
    reach, part = _shadow_reach(len(image)), image[cover.window]
    shadow = 1 - np.float32(0.45 / 255) * cv2.blur(cover.fill, (reach, reach))
    alpha = cover.fill * np.float32(1 / 255)
    front = alpha * (1 - np.float32(rim_darkness / 255) * cover.rim)
    part *= cv2.merge([shadow * (1 - alpha)] * 3)
    part += cv2.merge([front] * 3) * surface


# ---- Pictures ------------------------------------------------------------------------------------

def _keep_visible(shapes: Sequence[Shape], covers: Sequence[Cover], size: int
                  ) -> tuple[list[int], list[np.ndarray], np.ndarray]:
    """Indices of the shapes to draw, their visible masks bool [H, W], and what all of them cover.

    From the front to the back: what a shape shows depends only on the kept ones in front of it.
    """
    occupied = np.zeros((size, size), bool)
    kept: list[int] = []
    masks: list[np.ndarray] = []
    for index in reversed(range(len(shapes))):
        visible = np.zeros((size, size), bool)
        window = covers[index].window
        solid = covers[index].fill >= 128
        visible[window] = solid & ~occupied[window]
        whole = cv2.contourArea(shapes[index].outline().astype(np.float32))
        if np.count_nonzero(visible) >= max(MIN_VISIBLE * whole, MIN_VISIBLE_SHARE) * size * size:
            kept.insert(0, index)
            masks.insert(0, visible)
            occupied[window] |= solid
    return kept, masks, occupied


def _crowd_region(covers: Sequence[Cover], occupied: np.ndarray) -> np.ndarray | None:
    """The crowd as annotators outline it: the cluster with its gaps closed, less what stands in front."""
    union = np.zeros(occupied.shape, np.uint8)
    for cover in covers:
        union[cover.window] |= (cover.fill >= 128).astype(np.uint8)
    reach = int(0.12 * len(occupied)) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    padded = cv2.copyMakeBorder(union, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    region = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[reach:-reach, reach:-reach].astype(bool)
    visible = region & ~occupied
    return visible if visible.sum() >= MIN_CROWD_VISIBLE * region.sum() else None


def draw_scene(seed: int, split: str, index: int, size: int = 96) -> Scene:
    """Draws picture `index` (from 0) of a split; the same arguments always give the same picture.

    Args:
        seed: 0 <= seed < 2**32.
        split: 'train' or 'val'; the two never share a picture.
        size: image side in pixels.
    Returns:
        The picture and its instances; ordinary masks never overlap each other or the crowd region.
    """
    rng = np.random.RandomState([seed, SPLITS.index(split), index])
    kind = rng.rand()
    has_crowd = EMPTY_SHARE <= kind < EMPTY_SHARE + CROWD_SHARE
    shapes = [] if kind < EMPTY_SHARE else _place_shapes(rng, most=3 if has_crowd else len(COUNT_SHARES))
    members = _place_crowd(rng, shapes) if has_crowd else []

    taken = [_random_colour(rng, [])]
    image = _textured(rng, taken[0], 0.4, (size, size), size) * cv2.merge([_light(rng, size)] * 3)
    covers = [_cover(shape, size) for shape in shapes]
    kept, masks, occupied = _keep_visible(shapes, covers, size)
    instances = [Instance(shapes[k].label, mask) for k, mask in zip(kept, masks)]

    if members:
        member_covers = [_cover(member, size) for member in members]
        region = _crowd_region(member_covers, occupied)
        if region is not None:
            instances.append(Instance(members[0].label, region, is_crowd=True))
            for cover in member_covers:
                _paint(image, cover, _random_colour(rng, taken), 0.2)
    for k in kept:
        taken.append(_random_colour(rng, taken))
        surface = _textured(rng, taken[-1], 0.45, covers[k].fill.shape, size)
        _paint(image, covers[k], surface, rng.uniform(0.3, 0.6))

    noise = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    image += (noise.astype(np.float32) - 127.5) * np.float32(rng.uniform(0.02, 0.09))
    return Scene(cv2.convertScaleAbs(np.maximum(image, 0)), instances)


def _light(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Uneven light: float32 [size, size] in 0.75..1.25, smooth."""
    corners = rng.uniform(0.75, 1.25, (2, 2)).astype(np.float32)
    return cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
