"""What was found in one picture, for people and files: classes, scores, boxes, masks, polygons, run lengths.

Shapes: D detections, H W of the picture. Boxes and polygons are pixels of the picture.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils


class RleMasks:
    """Masks of one picture as COCO run lengths; each is decoded when asked for.

    Args:
        rles: list of D {"size": [H, W], "counts"}.
    """

    def __init__(self, rles: list[dict[str, Any]]) -> None:
        self._rles = rles

    def __len__(self) -> int:
        return len(self._rles)

    def __getitem__(self, chosen: slice | np.ndarray) -> RleMasks:
        """Those of an index array or a slice, as RleMasks."""
        return RleMasks([self._rles[index] for index in np.arange(len(self))[chosen]])

    def window(self, index: int) -> tuple[int, int, np.ndarray]:
        """As `Instances.window`."""
        x, y, width, height = mask_utils.toBbox(self._rles[index]).astype(np.int64).tolist()
        return x, y, mask_utils.decode(self._rles[index])[y:y + height, x:x + width].astype(bool)

    def numpy(self) -> np.ndarray:
        """All of them: bool [D, H, W]."""
        return np.ascontiguousarray(mask_utils.decode(self._rles).transpose(2, 0, 1)).astype(bool)


class Instances:
    """The objects found in one picture, by falling score.

    Args:
        classes: int [D], from 0 without background; a negative one is a crowd of the ground truth.
        scores: float [D]; None for ground truth.
        boxes: [D, 4], x1, y1, x2, y2 in pixels.
        masks: bool [D, H, W]; or what makes them when asked, RleMasks or layers.output_utils.PictureMasks; or None.
        class_names: names by class index; None takes the numbers.
        height, width: of the picture, in pixels.
        mask_scores: float [D] of a network that re-scores its masks; None: as `scores`.

    Attributes:
        classes, scores, boxes, mask_scores: as above, ndarrays (classes int64), or None. height, width: as above.
    """

    def __init__(self, classes: Any, scores: Any, boxes: Any, masks: Any, class_names: Sequence[str] | None,
                 height: int, width: int, mask_scores: Any = None) -> None:
        self.classes = np.asarray(classes, np.int64)
        self.scores: Any = None if scores is None else np.asarray(scores)
        self.boxes = np.asarray(boxes).reshape(-1, 4)
        self.mask_scores: Any = self.scores if mask_scores is None else np.asarray(mask_scores)
        self.height = height
        self.width = width
        self._class_names = class_names
        self._masks = masks

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, chosen: Any) -> Instances:
        """Some of them: a slice such as [:5], a list of indices, or a bool array such as found.scores > 0.5."""
        chosen = chosen if isinstance(chosen, slice) else np.asarray(chosen)
        if not isinstance(chosen, slice) and chosen.dtype != bool:
            chosen = chosen.astype(np.int64).reshape(-1)  # an empty list is an array of floats
        scores, masks, mask_scores = (None if part is None else part[chosen]
                                      for part in (self.scores, self._masks, self.mask_scores))
        return Instances(self.classes[chosen], scores, self.boxes[chosen], masks, self._class_names, self.height,
                         self.width, mask_scores)

    def __repr__(self) -> str:
        lines = [f"{len(self)} objects in {self.width} x {self.height} pixels"]
        widest = max(map(len, self.names), default=0)
        for index, (name, box) in enumerate(zip(self.names, self.boxes.tolist())):
            score = "" if self.scores is None else f"{self.scores[index]:.3f}  "
            lines.append(f"  {name:{widest}s}  {score}box {box}")
        return "\n".join(lines)

    @property
    def names(self) -> list[str]:
        """Class names: list of D str."""
        if self._class_names is None:
            return [str(number) for number in self.classes.tolist()]
        return ["crowd" if number < 0 else self._class_names[number] for number in self.classes.tolist()]

    @property
    def has_masks(self) -> bool:
        """Whether the network, or the data set, has masks."""
        return self._masks is not None

    @property
    def masks(self) -> np.ndarray | None:
        """All masks, bool [D, H, W], a byte a pixel and made anew at each access (`mask` makes one); or None."""
        if self._masks is None or isinstance(self._masks, np.ndarray):
            return self._masks
        return self._masks.numpy()

    def mask(self, index: int) -> np.ndarray:
        """One mask: bool [H, W]."""
        x, y, window = self.window(index)
        mask = np.zeros((self.height, self.width), bool)
        mask[y:y + window.shape[0], x:x + window.shape[1]] = window
        return mask

    def window(self, index: int) -> tuple[int, int, np.ndarray]:
        """The part of a mask outside of which it is empty: (x, y of its upper left pixel, bool [rows, columns]).

        Raises:
            ValueError: there are no masks.
        """
        if self._masks is None:
            raise ValueError("these objects have no masks: the network, or --detect, gives boxes only")
        if not isinstance(self._masks, np.ndarray):
            return self._masks.window(index)
        mask = self._masks[index]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return 0, 0, np.zeros((0, 0), bool)
        return int(columns[0]), int(rows[0]), mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]

    def rle(self) -> list[dict[str, Any]]:
        """Masks as compressed COCO run lengths: list of D dicts {"size": [H, W], "counts": str}, ready for json."""
        return [encode_window(*self.window(index), self.height, self.width) for index in range(len(self))]

    def polygons(self) -> list[list[list[int]]]:
        """Outlines of the masks along pixel edges, as COCO has them: list of D lists of [x, y, x, y, ...].

        An object in several parts has several outlines; holes are filled, as a COCO polygon has none.
        """
        return [_outlines(*self.window(index)) for index in range(len(self))]


def encode_window(x: int, y: int, window: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Compressed COCO RLE of a mask that is empty outside a window.

    Args:
        x, y: upper left pixel of the window. window: bool [rows, columns]. height, width: of the whole mask.

    Returns:
        {"size": [height, width], "counts": ASCII str}, the same as pycocotools' encode makes of the whole mask.
    """
    # Where the value changes down a column, each beginning and ending with 0; by column.
    framed = np.zeros((window.shape[0] + 2, window.shape[1]), bool)
    framed[1:-1] = window
    row, column = np.divmod(np.flatnonzero(framed[1:] != framed[:-1]), max(window.shape[1], 1))
    edges = np.sort((x + column) * height + y + row)
    # A run that goes on from the bottom of a column at the top of the next is one run.
    meets = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate((meets, meets + 1)))
    counts = np.diff(edges, prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _outlines(x: int, y: int, window: np.ndarray) -> list[list[int]]:
    """Polygons around the parts of a window's mask."""
    # Contours run through the pixels' centres. At twice the size those of the border pixels' outer halves tell which
    # edge is meant: an even coordinate is the left or upper one, an odd one the right or lower one.
    doubled = window.repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    if not doubled.any():
        return []
    contours = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    outlines = [(contour[:, 0] + 1) // 2 + [x, y] for contour in contours]
    return [points[(points != np.roll(points, 1, axis=0)).any(axis=1)].reshape(-1).tolist() for points in outlines]
