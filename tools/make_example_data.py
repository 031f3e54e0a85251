"""Draws a pond with fish and life buoys, annotated as by hand: the data of the README's worked example.

`python tools/make_example_data.py --out data/pond/photos` writes

    *.jpg  *.json  pictures, and beside each what the annotation program labelme writes
    pond.mp4       a video of the same pond
    example.txt    the options; marks the folder as ours

Reeds cut fish in two (polygons with one group_id), buoys have a hole (a polygon in another one of its group).
A larger set begins with the smaller one of the same seed.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

if __package__ in (None, ""):  # run as a script: python tools/make_example_data.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.files import atomic_folder  # noqa: E402

CLASS_NAMES = ("fish", "buoy")
WIDTH, HEIGHT = 160, 120
SUPERSAMPLE = 4  # everything is drawn this much larger: smooth edges, and outlines finer than a pixel
SMALLEST = 40  # visible pixels; of an object with fewer nobody would draw the outline
FPS, SECONDS = 12, 5
MARKER, VIDEO = "example.txt", "pond.mp4"
OURS = rf"pond_\d+\.(jpg|json)|{re.escape(MARKER)}|{re.escape(VIDEO)}"  # names in the folder


@dataclass
class Thing:
    """A fish or a buoy: index into CLASS_NAMES, centre and length in pixels, angle in radians, BGR, speed a frame."""

    label: int
    x: float
    y: float
    length: float
    angle: float
    colour: tuple[float, float, float]
    speed: float

    def after(self, frames: int) -> Thing:
        """The same thing that many frames later; who leaves on one side comes back on the other."""
        x = (self.x + frames * self.speed * np.cos(self.angle) + 30) % (WIDTH + 60) - 30
        y = (self.y + frames * self.speed * np.sin(self.angle) + 30) % (HEIGHT + 60) - 30
        return replace(self, x=x, y=y)

    def mask(self) -> np.ndarray:
        """All of it, uint8 [H, W] of the larger drawing, 0 or 255."""
        mask = np.zeros((HEIGHT * SUPERSAMPLE, WIDTH * SUPERSAMPLE), np.uint8)
        centre = np.array([self.x, self.y]) * SUPERSAMPLE
        side = self.length * SUPERSAMPLE
        if CLASS_NAMES[self.label] == "buoy":
            thickness = max(2, round(side * 0.22))
            cv2.circle(mask, _pixel(centre), round(side * 0.39), 255, thickness)
            return mask
        forward = np.array([np.cos(self.angle), np.sin(self.angle)])
        across = np.array([-forward[1], forward[0]])
        cv2.ellipse(mask, _pixel(centre), (round(side * 0.36), round(side * 0.2)), np.degrees(self.angle), 0, 360, 255,
                    -1)
        tail = [centre - forward * side * 0.2, centre - forward * side * 0.55 + across * side * 0.2,
                centre - forward * side * 0.55 - across * side * 0.2]
        cv2.fillPoly(mask, [np.round(tail).astype(np.int32)], 255)
        return mask


@dataclass
class Pond:
    """One scene: the water, reeds (x in pixels) in front, things from the back to the front."""

    water: np.ndarray
    reeds: list[float]
    things: list[Thing]


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(round(point[0])), int(round(point[1]))


def make_pond(rng: np.random.RandomState) -> Pond:
    """Water with light and waves, up to two reeds, one to five things."""
    colour = np.array([rng.uniform(90, 150), rng.uniform(80, 130), rng.uniform(20, 80)], np.float32)
    waves = cv2.resize(rng.uniform(0.7, 1.2, (9, 5)).astype(np.float32), (WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE),
                       interpolation=cv2.INTER_CUBIC)
    water = waves[:, :, None] * colour
    things = []
    for _ in range(rng.randint(1, 6)):
        label = int(rng.rand() < 0.35)
        bright = rng.uniform(120, 255, 3)
        colour_of = tuple(bright * ([0.4, 0.7, 1] if label == 0 else [0.5, 0.6, 1]))
        things.append(Thing(label, rng.uniform(10, WIDTH - 10), rng.uniform(10, HEIGHT - 10),
                            rng.uniform(28, 62) if label == 0 else rng.uniform(24, 46), rng.uniform(0, 2 * np.pi),
                            colour_of, rng.uniform(1, 3)))
    return Pond(water, list(rng.uniform(10, WIDTH - 10, rng.randint(3))), things)


def draw(pond: Pond) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """A picture of a pond, uint8 [H, W, 3] BGR, and (class name, visible mask of the larger drawing) of each thing."""
    image = pond.water.copy()
    masks: list[tuple[str, np.ndarray]] = []
    for thing in pond.things:
        mask = thing.mask()
        for _, behind in masks:
            behind[mask > 0] = 0
        masks.append((CLASS_NAMES[thing.label], mask))
        _paint(image, thing, mask)
    for x in pond.reeds:
        left, right = round((x - 1.5) * SUPERSAMPLE), round((x + 1.5) * SUPERSAMPLE)
        image[:, left:right] = (30, 90, 60)
        for _, mask in masks:
            mask[:, left:right] = 0
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    visible = [(name, mask) for name, mask in masks if np.count_nonzero(mask) >= SMALLEST * SUPERSAMPLE ** 2]
    return np.clip(image, 0, 255).astype(np.uint8), visible


def _paint(image: np.ndarray, thing: Thing, mask: np.ndarray) -> None:
    """Lays a thing on the picture: striped across its length, with a dark rim and, for a fish, an eye."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    forward = np.array([np.cos(thing.angle), np.sin(thing.angle)])
    along = (columns / SUPERSAMPLE - thing.x) * forward[0] + (rows / SUPERSAMPLE - thing.y) * forward[1]
    stripes = 0.85 + 0.15 * np.sign(np.sin(along * 2 * np.pi / 9))
    image[rows, columns] = stripes[:, None] * np.array(thing.colour, np.float32)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, [0.4 * channel for channel in thing.colour], 3)
    if CLASS_NAMES[thing.label] == "fish":
        eye = (np.array([thing.x, thing.y]) + forward * thing.length * 0.22) * SUPERSAMPLE
        cv2.circle(image, _pixel(eye), 5, (20, 20, 20), -1)


def shapes_of(masks: Sequence[tuple[str, np.ndarray]]) -> list[dict]:
    """What labelme writes for the outlines: polygons in pixels; those of one object share a group_id."""
    shapes = []
    for group, (name, mask) in enumerate(masks, 1):
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        contours = [cv2.approxPolyDP(contour, 0.3 * SUPERSAMPLE, True)[:, 0] for contour in contours
                    if cv2.contourArea(contour) > 2 * SUPERSAMPLE ** 2]
        for contour in contours:
            points = ((contour + 0.5) / SUPERSAMPLE).round(2).tolist()
            shapes.append({"label": name, "points": points, "group_id": group if len(contours) > 1 else None,
                           "description": "", "shape_type": "polygon", "flags": {}})
    return shapes


def _write_pictures(folder: str, count: int, seed: int, progress: bool) -> int:
    """Draws the pictures with their labelme files into a folder; returns the number of objects."""
    objects = 0
    for index in tqdm(range(count), desc="drawing", unit="image", disable=not progress, dynamic_ncols=True):
        image, masks = draw(make_pond(np.random.RandomState([seed, index])))
        name = f"pond_{index:04d}"
        if not cv2.imwrite(os.path.join(folder, name + ".jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"{name}.jpg cannot be written into {folder}; is the disk full?")
        content: dict[str, Any] = {
            "version": "5.5.0", "flags": {}, "shapes": shapes_of(masks), "imagePath": name + ".jpg", "imageData": None,
            "imageHeight": HEIGHT, "imageWidth": WIDTH}
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
        objects += len(masks)
    return objects


def frames(seed: int) -> Iterator[np.ndarray]:
    """The frames of the video, uint8 [H, W, 3] BGR: one pond of which the pictures have none."""
    pond = make_pond(np.random.RandomState([seed, 2 ** 31]))
    for frame in range(FPS * SECONDS):
        yield draw(replace(pond, things=[thing.after(frame) for thing in pond.things]))[0]


def _write_video(path: str, seed: int) -> None:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write the video {path}; install opencv-python-headless, which can")
    for frame in frames(seed):
        writer.write(frame)
    writer.release()


def make_example_data(out: str, count: int = 160, seed: int = 0, progress: bool = False) -> int:
    """Draws the folder beside `out` and renames it, so `out` is always whole or as before.

    Returns:
        The number of objects in the pictures.
    Raises:
        FileExistsError: `out` holds files that this tool did not make. OSError: it cannot be written.
    """
    if os.path.lexists(out):
        entries = os.listdir(out) if os.path.isdir(out) else [out]
        if entries and not (MARKER in entries and all(re.fullmatch(OURS, entry) for entry in entries)):
            raise FileExistsError(f"{out} holds files that this tool did not make; choose another --out")
    with atomic_folder(out) as folder:
        objects = _write_pictures(folder, count, seed, progress)
        _write_video(os.path.join(folder, VIDEO), seed)
        with open(os.path.join(folder, MARKER), "w", encoding="utf-8") as file:
            file.write(f"drawn by tools/make_example_data.py --count={count} --seed={seed}\n")
    return objects


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--out", default="data/pond/photos", help="folder to write; an earlier one of this tool is replaced "
                                                     "(default: %(default)s)")
    option("--count", type=int, default=160, help="pictures (default: %(default)s)")
    option("--seed", type=int, default=0, help="another seed gives other pictures (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.count < 1:
        parser.error(f"--count {args.count} leaves nothing to draw; use 1 or more")
    if not 0 <= args.seed < 2 ** 32:
        parser.error(f"--seed {args.seed} is out of range; use 0 to {2 ** 32 - 1}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        objects = make_example_data(args.out, args.count, args.seed, progress=True)
    except OSError as error:
        print(f"make_example_data.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{args.count} pictures with {objects} objects ({', '.join(CLASS_NAMES)}), annotated in labelme's format, "
          f"and a video of {SECONDS} seconds: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
