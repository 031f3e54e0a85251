"""Small annotated data sets for the tests of tools/x2coco.py, and what it makes of them as training reads it."""
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.coco import COCODetection
from data.images import decode_rle, to_rle
from tools import x2coco

EXIF_ORIENTATION = 0x0112


def save_picture(path, width=40, height=30, orientation=None):
    """A JPEG (or what the suffix says) of that stored size, with an EXIF orientation if it is given."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(cv2.blur(pixels, (5, 5))).save(path, exif=exif)


def box_mask(x1, y1, x2, y2, width=40, height=30):
    """bool [height, width], 1 in the columns x1 to x2 - 1 and the rows y1 to y2 - 1."""
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def corners(x1, y1, x2, y2):
    """The polygon around `box_mask`."""
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def convert(annotations, out, *options):
    """Runs the command and reads what it wrote.

    Returns:
        {split: {file name: [(class name, or None for a crowd; mask bool [H, W])]}}, and the files' contents by split.
    """
    x2coco.main([f"--annotations={annotations}", f"--out={out}", *options])
    folder = Path(out) / "images" if "--copy" in options else None
    return read(out, folder or pictures_folder(annotations, options))


def pictures_folder(annotations, options):
    given = [option.partition("=")[2] for option in options if option.startswith("--images=")]
    candidates = [Path(annotations) / name for name in ("JPEGImages", "img", "images")] + [Path(annotations)]
    return Path(given[0]) if given else next(folder for folder in candidates if folder.is_dir())


def read(out, pictures, name="instances"):
    """As `convert`, of files that are there."""
    found, contents = {}, {}
    for split in ("train", "val"):
        path = Path(out) / f"{name}_{split}.json"
        contents[split] = json.loads(path.read_text(encoding="utf-8"))
        names = [category["name"] for category in contents[split]["categories"]]
        data = COCODetection(str(pictures), str(path), None, names)
        assert set(data._files) == set(data.ids), "every picture is where the file says"
        found[split] = {}
        for index, image_id in enumerate(data.ids):
            labels, masks, _ = data.ground_truth(index)
            found[split][data.coco.imgs[image_id]["file_name"]] = [
                (names[label] if label >= 0 else None, mask) for label, mask in zip(labels, masks)]
        check_figures(contents[split])
    return found, contents


def check_figures(content):
    """Ids are unique, and area and box are those of the mask."""
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == len(content["images"])
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
    for entry in content["annotations"]:
        image = images[entry["image_id"]]
        mask = decode_rle(to_rle(entry["segmentation"], image["height"], image["width"]))
        rows, columns = np.nonzero(mask)
        assert entry["area"] == mask.sum()
        assert entry["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


def all_of(found):
    """{file name: objects} of both splits."""
    return {**found["train"], **found["val"]}


def same(objects, *expected):
    """Asserts that objects are these (class name, mask), in any order."""
    assert len(objects) == len(expected), [name for name, _ in objects]
    left = list(objects)
    for name, mask in expected:
        match = [k for k, (other, found) in enumerate(left) if other == name and np.array_equal(found, mask)]
        assert match, f"no {name} with this mask of {mask.sum()} pixels; there are {[(n, m.sum()) for n, m in left]}"
        left.pop(match[0])
