"""COCO instance files of the pictures that a reader found: split, annotations, summary."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as mask_utils
from tqdm import tqdm

from data.images import DatasetError, to_rle
from tools.annotations.objects import Object, Picture, Report, turned
from tools.annotations.pictures import relative
from utils.files import atomic_path

SPLITS = ("train", "val")
MOST_CLASSES = 20  # in the summary
_SPLIT_FOLDER = re.compile(r"(train|val|test)(?:id|idation|ing)?\d*", re.IGNORECASE)


def split_pictures(pictures: Sequence[Picture], folder: str, val_share: float, seed: int, report: Report) -> str:
    """Gives every picture its split, unless it has one.

    A data set's own split counts: its lists, or folders of the names train and val (test pictures are left out). Else
    a hash of seed and file name decides, so that pictures that are added later do not move the others.

    Args:
        folder: of the pictures. val_share: of the pictures, about, 0..1.
    Returns:
        How they were split, for people.
    """
    how = "the data set's own lists"
    if not any(picture.split for picture in pictures):
        names = [relative(picture.file.path, folder) for picture in pictures]
        own = [_split_in(name) for name in names]
        if {"train", "val"} <= set(own):
            how = "the folders of the pictures"
            for name, split in zip(names, own):
                if split not in SPLITS:
                    report.leave_out("a picture outside the folders train and val", name)
            own = [split if split in SPLITS else None for split in own]
        else:
            how = f"a hash of seed {seed} and file name, about {val_share:.0%} val"
            own = _hashed_splits(names, val_share, seed)
        for picture, found in zip(pictures, own):
            picture.split = found
    return how


def _split_in(name: str) -> str | None:
    for part in name.split("/")[:-1]:
        match = _SPLIT_FOLDER.fullmatch(part)
        if match:
            return match[1].lower()
    return None


def _hashed_splits(names: Sequence[str], val_share: float, seed: int) -> list[str | None]:
    shares = [int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()[:8], "big")
              / 2 ** 64 for name in names]
    # Of a few pictures chance may take none or all; the lowest is val and the highest train in any case.
    lowest, highest = min(shares), max(shares)
    return ["val" if share != highest and (share < val_share or share == lowest) else "train" for share in shares]


def coco_contents(pictures: Sequence[Picture], folder: str, classes: Sequence[str], are_upright: bool, report: Report
                  ) -> dict[str, dict[str, Any]]:
    """What the JSON file of each split holds.

    Args:
        folder: that file names are relative to. classes: category 1, 2, ...
        are_upright: the pictures there are as annotated; otherwise positions are turned into stored pixels.
    Raises:
        DatasetError: a split has no picture.
    """
    numbers = {name: number for number, name in enumerate(classes, 1)}
    contents: dict[str, dict[str, Any]] = {split: {
        "info": {"description": f"{split}, converted by tools/x2coco.py"}, "licenses": [],
        "images": [], "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()]} for split in SPLITS}
    annotation_id = 0
    chosen = [picture for picture in pictures if picture.split]
    for image_id, picture in enumerate(tqdm(chosen, desc="converting", unit="picture"), 1):
        name = relative(picture.file.path, folder)
        content = contents[str(picture.split)]
        width, height = picture.size if are_upright else (picture.file.width, picture.file.height)
        content["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        for item in picture.objects:
            entry = _annotation(item if are_upright else turned(item, picture), width, height)
            if entry["area"]:
                annotation_id += 1
                content["annotations"].append({"id": annotation_id, "image_id": image_id,
                                               "category_id": numbers[item.name], **entry})
            else:
                report.leave_out("an object without a pixel in the picture", name)
    for split in SPLITS:
        if not contents[split]["images"]:
            raise DatasetError(f"no picture is left for {split} of the {len(pictures)} that could be read; add "
                               f"pictures, or correct the data set's own lists; left out: "
                               f"{report.reasons() or 'nothing'}")
    return contents


def _annotation(item: Object, width: int, height: int) -> dict[str, Any]:
    """What of a COCO annotation follows from the object alone."""
    rle = to_rle(item.segmentation, height, width)
    return {"segmentation": item.segmentation, "area": float(mask_utils.area(rle)),
            "bbox": mask_utils.toBbox(rle).tolist(), "iscrowd": int(item.is_crowd)}


def write_files(contents: dict[str, dict[str, Any]], preview: bytes, stem: str) -> None:
    """Writes <stem>_train.json, <stem>_val.json and <stem>_preview.png, all or none."""
    with contextlib.ExitStack() as files:
        for split, content in contents.items():
            path = files.enter_context(atomic_path(f"{stem}_{split}.json"))
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file)
        path = files.enter_context(atomic_path(f"{stem}_preview.png"))
        with open(path, "wb") as picture_file:
            picture_file.write(preview)


def summary(contents: dict[str, dict[str, Any]]) -> str:
    """What was made, by split and by class; small, medium, large as in COCO (up to 32 and 96 squared)."""
    rows: list[Sequence[str]] = [("", "images", "empty", "objects", "crowds", "small", "medium", "large")]
    counts = {}
    for split, content in contents.items():
        objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
        sizes = Counter((entry["area"] > 32 ** 2) + (entry["area"] > 96 ** 2) for entry in objects)
        occupied = len({annotation["image_id"] for annotation in content["annotations"]})
        rows.append((split, *map(str, (
            len(content["images"]), len(content["images"]) - occupied, len(objects),
            len(content["annotations"]) - len(objects), sizes[0], sizes[1], sizes[2]))))
        counts[split] = Counter(annotation["category_id"] for annotation in objects)
    names = {entry["id"]: entry["name"] for entry in contents["train"]["categories"]}
    order = sorted(names, key=lambda number: -sum(counts[split][number] for split in SPLITS))
    table: list[Sequence[str]] = [("objects of the class", *SPLITS)]
    table += [(names[number], *(str(counts[split][number]) for split in SPLITS)) for number in order[:MOST_CLASSES]]
    if len(order) > MOST_CLASSES:
        rest = order[MOST_CLASSES:]
        table.append((f"({len(rest)} more)", *(str(sum(counts[split][k] for k in rest)) for split in SPLITS)))
    return _aligned(rows) + "\n\n" + _aligned(table)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    first = max(len(row[0]) for row in rows)
    return "\n".join(row[0].ljust(first) + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows)


def config_lines(stem: str, folder: str) -> str:
    """What to add to data/config.py for the files of `write_files` and the pictures in `folder`."""
    name = re.sub(r"\W+", "_", os.path.basename(os.path.dirname(os.path.abspath(stem)))).strip("_").lower()
    name = name if name.isidentifier() else f"my_{name}".strip("_")
    train, val = (json.dumps(for_config(f"{stem}_{split}.json"), ensure_ascii=False) for split in SPLITS)
    pictures = json.dumps(for_config(folder), ensure_ascii=False)
    return (f'{name}_dataset = dataset_base.copy({{\n    "name": "{name}",\n'
            f'    "train_images": {pictures}, "train_info": {train},\n'
            f'    "valid_images": {pictures}, "valid_info": {val},\n}})\n'
            f'yolact_{name}_config = yolact_base_config.copy({{"name": "yolact_{name}", "dataset": {name}_dataset}})\n'
            f'\nthen: python tools/check_dataset.py --config=yolact_{name}_config')


def for_config(path: str) -> str:
    """A path as data/config.py writes them: from the working folder if it is inside it."""
    below = os.path.relpath(path)
    return os.path.abspath(path) if below.startswith("..") else "./" + below.replace(os.sep, "/")
