"""Draws a small data set in COCO format: overlapping, textured circles, squares and triangles.

`python tools/make_demo_data.py --out data/demo` writes

    train/*.jpg  val/*.jpg  annotations/instances_train.json  annotations/instances_val.json
    preview.png (24 pictures, every instance outlined)  demo_data.json (the options; marks the folder as ours)

A larger set begins with the smaller one of the same seed. What the pictures show: tools/demo_shapes.py.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from tqdm import tqdm

if __package__ in (None, ""):  # run as a script: python tools/make_demo_data.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from tools.demo_shapes import CLASS_NAMES, SPLITS, Instance, Scene, draw_scene  # noqa: E402
from utils.files import atomic_folder  # noqa: E402

VAL_ID_OFFSET = 1_000_000  # no image id stands in both splits
MARKER = "demo_data.json"
DEFAULT_SEED = 3  # its 100 validation images hold about the usual shares of classes, crowds and empty ones
OWN_ENTRIES = {*SPLITS, "annotations", "preview.png", MARKER}


def annotate(instances: Sequence[Instance], image_id: int, first_id: int) -> list[dict]:
    """COCO annotations (compressed RLE, area and box in pixels) numbered from `first_id`."""
    annotations: list[dict] = []
    for offset, instance in enumerate(instances):
        rle = mask_utils.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
        annotations.append({
            "id": first_id + offset, "image_id": image_id, "category_id": instance.label + 1,
            "iscrowd": int(instance.is_crowd), "area": float(mask_utils.area(rle)),
            "bbox": [float(value) for value in mask_utils.toBbox(rle)],
            "segmentation": {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}})
    return annotations


def _write_split(folder: str, split: str, count: int, size: int, seed: int, progress: bool) -> dict:
    """Draws one split into the folder and returns what its JSON holds."""
    images: list[dict] = []
    annotations: list[dict] = []
    os.makedirs(os.path.join(folder, split))
    for index in tqdm(range(count), desc=f"drawing {split}", unit="image", disable=not progress):
        scene = draw_scene(seed, split, index, size)
        image_id = index + 1 + (VAL_ID_OFFSET if split == "val" else 0)
        name = f"{image_id:012d}.jpg"
        if not cv2.imwrite(os.path.join(folder, split, name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f"{os.path.join(folder, split, name)} cannot be written; is the disk full?")
        images.append({"id": image_id, "file_name": name, "width": size, "height": size})
        annotations += annotate(scene.instances, image_id, len(annotations) + 1)
    content = {
        "info": {"description": "YOLACT demo shapes", "split": split, "seed": seed, "size": size},
        "licenses": [], "images": images, "annotations": annotations,
        "categories": [{"id": k + 1, "name": name, "supercategory": "shape"}
                       for k, name in enumerate(CLASS_NAMES)]}
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    with open(os.path.join(folder, "annotations", f"instances_{split}.json"), "w", encoding="utf-8") as file:
        json.dump(content, file)
    return content


def contact_sheet(scenes: Sequence[Scene], columns: int = 6, zoom: int = 2) -> np.ndarray:
    """Pictures side by side, uint8 BGR, each above its copy with outlines.

    Circles are outlined in red, squares in green, triangles in blue, crowds in white.
    """
    colours, tiles = ((60, 60, 255), (60, 230, 60), (255, 120, 40)), []
    for scene in scenes:
        plain = cv2.resize(scene.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        outlined = plain.copy()
        for instance in scene.instances:
            mask = np.kron(instance.mask, np.ones((zoom, zoom))).astype(np.uint8)
            contours = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
            colour = (255, 255, 255) if instance.is_crowd else colours[instance.label]
            cv2.drawContours(outlined, contours, -1, (0, 0, 0), 3)
            cv2.drawContours(outlined, contours, -1, colour, 1)
        pair = np.vstack([plain, outlined])
        tiles.append(cv2.copyMakeBorder(pair, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[k:k + columns]) for k in range(0, len(tiles), columns)])


def _check_target(out: str) -> None:
    """Raises FileExistsError unless `out` is free, empty, or holds nothing but an earlier demo set."""
    if not os.path.lexists(out):
        return
    entries = set(os.listdir(out)) if os.path.isdir(out) else {out}
    if entries and not (MARKER in entries and entries <= OWN_ENTRIES):
        raise FileExistsError(f"{out} holds files that this tool did not make; choose another --out")


def make_demo_data(out: str, train: int = 2000, val: int = 100, size: int = 96, seed: int = DEFAULT_SEED,
                   progress: bool = False) -> dict[str, dict]:
    """Draws the data set into a folder beside `out` and renames it, so `out` is always whole or as before.

    Returns:
        What each split's JSON holds, by split.
    Raises:
        FileExistsError: `out` holds files that this tool did not make. OSError: it cannot be written.
    """
    _check_target(out)
    with atomic_folder(out) as folder:
        contents = {split: _write_split(folder, split, count, size, seed, progress)
                    for split, count in zip(SPLITS, (train, val))}
        split, count = ("train", train) if train else ("val", val)
        sheet = contact_sheet([draw_scene(seed, split, index, size) for index in range(min(24, count))])
        cv2.imwrite(os.path.join(folder, "preview.png"), sheet)
        with open(os.path.join(folder, MARKER), "w", encoding="utf-8") as file:
            json.dump({"train": train, "val": val, "size": size, "seed": seed}, file)
    return contents


def summary_table(contents: dict[str, dict]) -> str:
    """What was made, one line per split; small, medium, large as in COCO (up to 32 and 96 pixels squared)."""
    lines: list[tuple] = [("split", "images", "empty", "crowds", "objects", *CLASS_NAMES, "small", "medium", "large")]
    for split, content in contents.items():
        objects = [ann for ann in content["annotations"] if not ann["iscrowd"]]
        labels = Counter(ann["category_id"] for ann in objects)
        sizes = Counter((ann["area"] > 32 ** 2) + (ann["area"] > 96 ** 2) for ann in objects)
        occupied = len({ann["image_id"] for ann in content["annotations"]})
        lines.append((split, len(content["images"]), len(content["images"]) - occupied,
                      len(content["annotations"]) - len(objects), len(objects),
                      *(labels[k + 1] for k in range(len(CLASS_NAMES))), *(sizes[k] for k in range(3))))
    return "\n".join("".join(f"{cell:>10}" for cell in line) for line in lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(
        description="Draws a small instance segmentation data set in COCO format: circles, squares and "
                    "triangles that touch and overlap, on textured backgrounds. Look at OUT/preview.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    option = parser.add_argument
    option("--out", default="data/demo", help="folder to write; an earlier demo set there is replaced")
    option("--train", type=int, default=2000, help="training images; more extend the same series")
    option("--val", type=int, default=100, help="validation images, never among the training images")
    option("--size", type=int, default=96, help="side of the square images in pixels, 32 or more")
    option("--seed", type=int, default=DEFAULT_SEED, help="another seed gives other pictures")
    args = parser.parse_args(argv)
    if min(args.train, args.val) < 0 or args.train + args.val == 0:
        parser.error("--train and --val are numbers of images; use 0 or more, and above 0 for one of them")
    if args.size < 32:
        parser.error(f"--size {args.size} is too small to tell the shapes apart; use 32 or more")
    if not 0 <= args.seed < 2 ** 32:
        parser.error(f"--seed {args.seed} is out of range; use 0 to {2 ** 32 - 1}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        contents = make_demo_data(args.out, args.train, args.val, args.size, args.seed, progress=True)
    except OSError as error:
        print(f"make_demo_data.py: error: {error}", file=sys.stderr)
        return 1
    print(summary_table(contents))
    print(f"written to {args.out}; its preview.png shows the first pictures with their masks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
