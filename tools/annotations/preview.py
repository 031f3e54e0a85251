"""A contact sheet of converted pictures with masks, boxes and class names, drawn from what the JSON files hold."""
from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

import cv2
import numpy as np

from data.config import COLORS
from data.images import DatasetError, decode_rle, read_image, to_rle
from utils.instances import Instances
from utils.visualize import draw_detections

PICTURES, COLUMNS = 12, 4
TILE_WIDTH, TILE_HEIGHT, MARGIN = 480, 400, 6
_WHITE = (255, 255, 255)


def contact_sheet(contents: dict[str, dict[str, Any]], folder: str) -> bytes:
    """Up to 12 pictures that have objects, from all over the data set, as the bytes of one PNG.

    Args:
        contents: of the JSON files, see coco_file.py. folder: of the pictures.
    """
    objects = defaultdict(list)
    for content in contents.values():
        for annotation in content["annotations"]:
            objects[annotation["image_id"]].append(annotation)
    images = [image for content in contents.values() for image in content["images"] if image["id"] in objects]
    names = [category["name"] for category in contents["train"]["categories"]]
    tiles: list[np.ndarray] = []
    count = min(PICTURES, len(images))
    for index in range(count):
        image = images[index * len(images) // count]
        try:
            picture = read_image(os.path.join(folder, image["file_name"]))
            tiles.append(_tile(picture, image, objects[image["id"]], names))
        except DatasetError:
            continue  # cut off behind its header; the data set's check names such files
    if not tiles:
        tiles = [np.full((TILE_HEIGHT, TILE_WIDTH, 3), 255, np.uint8)]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    sheet = np.vstack([np.hstack(tiles[k:k + columns]) for k in range(0, len(tiles), columns)])
    return cv2.imencode(".png", sheet)[1].tobytes()


def _tile(picture: np.ndarray, image: dict[str, Any], objects: list[dict[str, Any]], names: list[str]) -> np.ndarray:
    """One picture in the middle of a white tile, uint8 BGR, with its objects drawn at the size it has there."""
    height, width = image["height"], image["width"]
    scale = min(TILE_WIDTH / width, TILE_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    masks = [cv2.resize(decode_rle(to_rle(entry["segmentation"], height, width)) * np.uint8(255), size,
                        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR) > 127 for entry in objects]
    boxes = np.array([entry["bbox"] for entry in objects], np.float64) * scale
    boxes[:, 2:] += boxes[:, :2]
    classes = [-1 if entry["iscrowd"] else entry["category_id"] - 1 for entry in objects]
    found = Instances(classes, None, boxes, np.array(masks), names, size[1], size[0])
    drawn = draw_detections(small, found, COLORS, show_scores=False)
    top, left = (TILE_HEIGHT - size[1]) // 2, (TILE_WIDTH - size[0]) // 2
    tile = cv2.copyMakeBorder(drawn, top, TILE_HEIGHT - size[1] - top, left, TILE_WIDTH - size[0] - left,
                              cv2.BORDER_CONSTANT, value=_WHITE)
    return cv2.copyMakeBorder(tile, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=_WHITE)
