"""COCO-format instance data: a picture with its boxes, labels and masks as a `Sample`, several as a `Batch`.

What is wrong with the folder or the annotation file is told when the data set is made, as a `DatasetError`
that names the config key to change; single bad annotations and pictures cost only themselves and a warning.

Shapes: B batch, N ground truths, H W. Boxes are x1, y1, x2, y2, relative 0..1.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Callable

import cv2
import numpy as np
from pycocotools.coco import COCO

from data.coco_checks import (
    check_info,
    clipped_box,
    find_files,
    load_info,
    missing_pictures,
    nothing_to_train_on,
    usable_annotations,
)
from data.images import DatasetError, StoredMasks, read_image, sound_rle
from data.label_map import make_label_map

logger = logging.getLogger(__name__)

CROWD_LABEL = -1
MAX_REPLACEMENTS = 100


@dataclass
class Sample:
    """One picture and its objects, as the network and the loss want them.

    image: float32 [3, H, W], normalised. boxes: float32 [N, 4], relative 0..1. labels: int64 [N], 0-based,
    crowds are -1 and last. masks: uint8 [N, H, W], 0 or 1; in evaluation of the picture's own size.
    num_crowds: how many of the N are crowds. image_id: an integer or string, as in the json. height, width: of the
    picture as stored, in pixels. image is None in a `Batch`, which holds the pictures stacked.
    """

    image: np.ndarray | None
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    num_crowds: int
    image_id: Any
    height: int
    width: int
    file_name: str

    @property
    def pixels(self) -> np.ndarray:
        """`image` of a sample that is in no `Batch`."""
        if self.image is None:
            raise ValueError("a sample of a Batch has its picture there, in Batch.images")
        return self.image


@dataclass
class Batch:
    """Samples with their pictures stacked: images float32 [B, 3, H, W]; the samples' own `image` is None."""

    images: np.ndarray
    samples: list[Sample]


def fitted(sample: Sample, height: int, width: int) -> Sample:
    """The sample at another size, its aspect ratio kept: scaled to fit, zero to the right or below.

    For batches of pictures that keep their aspect ratio: the first one, itself a random one, sets the size.
    """
    old_height, old_width = sample.pixels.shape[1:]
    scale = min(height / old_height, width / old_width)
    new_height, new_width = (min(most, max(1, round(old * scale)))
                             for most, old in ((height, old_height), (width, old_width)))

    def place(planes: np.ndarray) -> np.ndarray:
        placed = np.zeros((len(planes), height, width), planes.dtype)
        for plane, target in zip(planes, placed):
            target[:new_height, :new_width] = cv2.resize(plane, (new_width, new_height))
        return placed

    boxes = sample.boxes * np.array([new_width / width, new_height / height] * 2, np.float32)
    return replace(sample, image=place(sample.pixels), masks=place(sample.masks), boxes=boxes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks the pictures of samples into a `Batch`; objects stay per picture, as their number differs."""
    height, width = samples[0].pixels.shape[1:]
    samples = [sample if sample.pixels.shape[1:] == (height, width) else fitted(sample, height, width)
               for sample in samples]
    # The samples lose theirs: a worker would send each of them twice.
    images = np.stack([sample.pixels for sample in samples])
    return Batch(images, [replace(sample, image=None) for sample in samples])


def image_order(ids: Sequence[Any], shuffle: bool = False, no_sort: bool = False) -> list[int]:
    """Positions of pictures in the order of evaluation, of which the first few are a mixture of all.

    Args:
        ids: image ids. shuffle: draw the order with Python's `random`. no_sort: keep the order of the ids.
            Neither: by the original's hash of the id, so that `--max_images` takes the same pictures.
    """
    def mixed(number):
        for _ in range(2):
            number = ((number >> 16) ^ number) * 0x045D9F3B & 0xFFFFFFFF
        return (number >> 16) ^ number

    order = list(range(len(ids)))
    if shuffle:
        random.shuffle(order)
    elif not no_sort and all(isinstance(number, int) for number in ids):
        order.sort(key=lambda i: mixed(ids[i]))
    return order


class COCODetection:
    """A COCO-format data set (json with images, annotations, categories) read picture by picture.

    Args:
        image_path: folder of the pictures. info_file: the annotation json.
        transform: `(rng, image_bgr, masks, boxes_in_pixels, labels) -> (image, masks, boxes, labels)`, see
            utils/augmentations.py. class_names: the names the network predicts, in its order.
        label_map: {category_id: 1-based label}; None: found by the names of the json's categories.
        has_gt: False: annotations are not read (test-dev). The attribute is also False if the json has none.
        name: of the data set. training: skip pictures without annotations or missing on disk, replace
            unreadable ones. Evaluation takes every picture of the json: what is missing counts as missed.
        content: what info_file holds, if data/inspection.py has read it already and told what is left out; it is
            not told again.
    Attributes:
        coco: pycocotools' COCO of the json, unchanged. ids: image ids in its order. label_map: as above.
    Raises:
        DatasetError: the folder or the json cannot be used, or every picture is missing.
    """

    def __init__(self, image_path: str, info_file: str, transform: Callable[..., Any],
                 class_names: Sequence[str], label_map: Mapping[Any, int] | None = None, has_gt: bool = True,
                 name: str = "", training: bool = False, content: dict[str, Any] | None = None):
        prefix = "train" if training else "valid"
        self.images_key, self.info_key = f"dataset.{prefix}_images", f"dataset.{prefix}_info"
        self.image_path, self.info_file, self.transform = image_path, info_file, transform
        self.class_names, self.name, self.training = list(class_names), name, training
        if not os.path.isdir(image_path):
            raise DatasetError(f"the picture folder {image_path} does not exist; correct {self.images_key}")
        self._is_told = content is not None
        content = load_info(info_file, self.info_key) if content is None else content
        check_info(content, info_file, has_gt)
        if not has_gt:
            content = {part: entries for part, entries in content.items() if part != "annotations"}
        self.has_gt = "annotations" in content
        self.label_map = make_label_map(content, label_map, self.class_names, info_file)
        self.coco = index_of(content)
        self._warned: set[str] = set()
        self._objects = self._collect_objects(content["annotations"] if self.has_gt else [])
        self._files = self._find_files()
        self.ids = list(self.coco.imgs)
        if training:
            self.ids = [image_id for image_id in self._files if image_id in self._objects]
        if not self.ids:
            raise DatasetError(f"{info_file}: {nothing_to_train_on(self.info_key).line()}")

    def __len__(self) -> int:
        return len(self.ids)

    def load_image(self, index: int) -> np.ndarray:
        """The picture as stored, uint8 [H, W, 3] BGR.

        Raises:
            DatasetError: it is missing, unreadable, or not of the size that its annotations are for.
        """
        image_id = self.ids[index]
        info = self.coco.imgs[image_id]
        path = self._files.get(image_id) or os.path.join(self.image_path, info["file_name"])
        image = read_image(path)
        if self.has_gt and image.shape[:2] != (info["height"], info["width"]):
            raise DatasetError(f"{path} is {image.shape[1]} x {image.shape[0]} pixels, but {self.info_file} "
                               f"says {info['width']} x {info['height']}; correct the file or its entry")
        return image

    def try_load_image(self, index: int) -> np.ndarray | None:
        """`load_image`, but a picture that cannot be used gives None and, the first time, a warning."""
        try:
            return self.load_image(index)
        except DatasetError as error:
            self._warn_once(f"picture {self.ids[index]} is skipped: {error}")
            return None

    def sample(self, index: int, rng: np.random.RandomState | None = None) -> Sample | None:
        """Reads and transforms one picture with its objects.

        Args:
            index: 0-based position in `ids`. rng: where the transform draws from; training needs one.
        Returns:
            the sample. A picture that cannot be read gives None in evaluation; in training another one drawn
            with `rng` takes its place, as for a picture whose objects the transform all discards (as the
            original).
        Raises:
            DatasetError: training found no usable picture in many draws. ValueError: training without rng.
        """
        if not self.training:
            return self._try_sample(index, rng)
        if rng is None:
            raise ValueError("training draws from rng; give one")
        for _ in range(MAX_REPLACEMENTS):
            sample = self._try_sample(index, rng)
            if sample is not None and len(sample.labels):
                return sample
            index = rng.randint(len(self.ids))
        raise DatasetError(f"{MAX_REPLACEMENTS} pictures in a row were unreadable or left without an object; "
                           f"check the pictures in {self.images_key} and the boxes in {self.info_key}")

    def _try_sample(self, index: int, rng: np.random.RandomState | None) -> Sample | None:
        image_id, image = self.ids[index], self.try_load_image(index)
        if image is None:
            return None
        height, width = image.shape[:2]
        objects = self._ground_truth(image_id, height, width)
        image, masks, boxes, labels = self.transform(rng, image, *objects)
        if self.training and not len(labels):
            self._warn_once(f"picture {image_id} kept no object in the augmentation; another takes its place")
        return Sample(image, boxes, labels, masks, int((labels < 0).sum()), image_id, height, width,
                      self.coco.imgs[image_id]["file_name"])

    def ground_truth(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A picture's objects as annotated, to be drawn beside detections.

        Args:
            index: 0-based position in `ids`.
        Returns:
            classes int64 [N], 0-based, crowds -1 and last; masks bool [N, H, W] and boxes float64 [N, 4] in
            pixels of the picture as stored.
        """
        info = self.coco.imgs[self.ids[index]]
        height, width = int(info["height"]), int(info["width"])  # numbers of the file, which may be floats
        masks, boxes, labels = self._ground_truth(self.ids[index], height, width)
        return labels, np.array(masks, bool).reshape(-1, height, width), boxes

    def _ground_truth(self, image_id: Any, height: int, width: int
                      ) -> tuple[StoredMasks, np.ndarray, np.ndarray]:
        """A picture's masks (N times uint8 [H, W]), boxes (float64 [N, 4], pixels) and labels (int64 [N])."""
        masks, boxes, labels = [], [], []
        for annotation in self._objects.get(image_id, []):
            mask = self._read_mask(annotation, height, width)
            if mask is None:
                continue
            masks.append(mask)
            boxes.append(clipped_box(annotation["bbox"], height, width))
            is_crowd = annotation.get("iscrowd")
            labels.append(CROWD_LABEL if is_crowd else self.label_map[annotation["category_id"]] - 1)
        return StoredMasks(masks), np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64)

    def _read_mask(self, annotation: Mapping[str, Any], height: int, width: int) -> Mapping[str, Any] | None:
        """The annotation's mask as compressed RLE; None, after a warning, if it is empty or damaged."""
        try:
            return sound_rle(annotation["segmentation"], height, width)
        except ValueError as error:
            self._warn_once(f"annotation {annotation['id']} is left out: {error}")
            return None

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s: %s", self.info_file, message)

    def _collect_objects(self, annotations: Sequence[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
        """{image id: its usable annotations, crowds last}; the others are counted in one warning."""
        usable, faults = usable_annotations(annotations, self.coco.imgs)
        objects = collections.defaultdict(list)
        for annotation in usable:
            objects[annotation["image_id"]].append(annotation)
        for of_image in objects.values():
            of_image.sort(key=lambda annotation: bool(annotation.get("iscrowd")))
        if faults and not self._is_told:
            parts = ", ".join(f"{len(ids)} with {fault} (first: id {ids[0]})"
                              for fault, ids in sorted(faults.items()))
            logger.warning("%s: %d of %d annotations are left out: %s", self.info_file,
                           sum(map(len, faults.values())), len(annotations), parts)
        return dict(objects)

    def _find_files(self) -> dict[Any, str]:
        """{image id: path} in the json's order, without the pictures missing on disk, told in one warning."""
        files, missing = find_files(self.coco.imgs.values(), self.image_path)
        lines = [finding.line() for finding in missing_pictures(
            missing, len(self.coco.imgs), self.image_path, self.images_key, self.info_key, self.training)]
        if not files:
            raise DatasetError(f"{self.info_file}: {lines[0]}")
        if missing and not self._is_told:
            logger.warning("%s: %s", self.info_file, lines[0])
        return files


def index_of(content: dict[str, Any]) -> COCO:
    """pycocotools' index over a loaded json, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
    return coco


def load_dataset(dataset: Any, transform: Callable[..., Any], training: bool = False,
                 content: dict[str, Any] | None = None) -> COCODetection:
    """The training or the validation set of a data set definition.

    Args:
        dataset: a DatasetConfig with class_names. transform, training, content: as of `COCODetection`.
    Raises:
        DatasetError: as `COCODetection`.
    """
    images, info = ((dataset.train_images, dataset.train_info) if training
                    else (dataset.valid_images, dataset.valid_info))
    return COCODetection(images, info, transform, dataset.class_names, dataset.label_map, training or dataset.has_gt,
                         dataset.name, training, content)
