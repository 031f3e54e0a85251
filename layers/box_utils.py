"""Box geometry: corner and centre forms, IoU, SSD offsets, and cropping masks to boxes.

`boxes_xyxy` are (x1, y1, x2, y2), `boxes_cxcywh` are (centre x, centre y, width, height); both relative 0..1
unless said otherwise. Shapes: N and M boxes, P priors, D detections, H W a mask's size.
"""
from __future__ import annotations

import paddle
from paddle import Tensor

# SSD's variances (Liu et al. 2016), which YOLACT inherits: offsets are divided by them to have about unit scale.
VARIANCES = (0.1, 0.2)


def point_form(boxes_cxcywh: Tensor) -> Tensor:
    """Centre form to corner form. [N, 4] -> [N, 4], same dtype."""
    centre, half = boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] / 2
    return paddle.concat([centre - half, centre + half], axis=1)


def center_size(boxes_xyxy: Tensor) -> Tensor:
    """Corner form to centre form. [N, 4] -> [N, 4], same dtype."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return paddle.concat([(high + low) / 2, high - low], axis=1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Area of corner-form boxes. [..., 4] -> [...]."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def intersect(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection areas of every pair. [..., N, 4] and [..., M, 4] -> [..., N, M]."""
    a, b = boxes_a.unsqueeze(-2), boxes_b.unsqueeze(-3)
    width = paddle.minimum(a[..., 2], b[..., 2]) - paddle.maximum(a[..., 0], b[..., 0])
    height = paddle.minimum(a[..., 3], b[..., 3]) - paddle.maximum(a[..., 1], b[..., 1])
    return width.clip(min=0) * height.clip(min=0)


def jaccard(boxes_a: Tensor, boxes_b: Tensor, iscrowd: bool = False) -> Tensor:
    """IoU of every pair of corner-form boxes.

    Args:
        boxes_a: [..., N, 4]. boxes_b: [..., M, 4].
        iscrowd: divide by the area of `boxes_a` alone, COCO's rule for a crowd region `boxes_b`.

    Returns: [..., N, M].
    """
    inter = intersect(boxes_a, boxes_b)
    area_a = box_area(boxes_a).unsqueeze(-1)
    if iscrowd:
        return inter / area_a
    return inter / (area_a + box_area(boxes_b).unsqueeze(-2) - inter)


def encode(boxes_xyxy: Tensor, priors: Tensor) -> Tensor:
    """Offsets that turn priors into boxes (SSD's encoding).

    Args:
        boxes_xyxy: [P, 4], the box each prior is matched with. priors: [P, 4] in centre form.

    Returns: [P, 4] offsets (dx, dy, log dw, log dh), divided by the variances.
    """
    boxes = center_size(boxes_xyxy)
    centre = (boxes[:, :2] - priors[:, :2]) / (VARIANCES[0] * priors[:, 2:])
    size = paddle.log(boxes[:, 2:] / priors[:, 2:]) / VARIANCES[1]
    return paddle.concat([centre, size], axis=1)


def decode(loc: Tensor, priors: Tensor) -> Tensor:
    """Inverse of `encode`. loc [..., P, 4], priors [P, 4] in centre form -> corner-form boxes [..., P, 4]."""
    centre = priors[:, :2] + loc[..., :2] * VARIANCES[0] * priors[:, 2:]
    size = priors[:, 2:] * paddle.exp(loc[..., 2:] * VARIANCES[1])
    low = centre - size / 2
    return paddle.concat([low, size + low], axis=-1)


def sanitize_coordinates(x1: Tensor, x2: Tensor, size: int, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Scale one axis of relative coordinates to pixels, order them and clamp the interval to the picture.

    As the original, the lower end is only clamped from below and the upper only from above, so a box that lies outside
    the picture stays empty instead of becoming a line at its border.

    Args:
        x1, x2: [D] relative coordinates. size: the axis' length in pixels. padding: pixels to widen by.

    Returns: (low [D], high [D]) in pixels, floats.
    """
    x1, x2 = x1 * size, x2 * size
    low = (paddle.minimum(x1, x2) - padding).clip(min=0)
    high = (paddle.maximum(x1, x2) + padding).clip(max=size)
    return low, high


def crop_bounds(boxes_xyxy: Tensor, height: int, width: int, padding: int = 1) -> Tensor:
    """What `crop` leaves of a mask: columns x1 <= x < x2 and rows y1 <= y < y2.

    Args:
        boxes_xyxy: [D, 4] relative. height, width: of the masks. padding: extra pixels on every side, the original's 1.

    Returns: int64 [D, 4], x1, y1, x2, y2; of a box outside the mask x2 <= x1 or y2 <= y1.
    """
    x1, x2 = sanitize_coordinates(boxes_xyxy[:, 0], boxes_xyxy[:, 2], width, padding)
    y1, y2 = sanitize_coordinates(boxes_xyxy[:, 1], boxes_xyxy[:, 3], height, padding)
    return paddle.stack([x1, y1, x2, y2], axis=1).ceil().astype("int64")


def crop(masks: Tensor, boxes_xyxy: Tensor, padding: int = 1) -> Tensor:
    """Zero everything outside the boxes (Sec. 3.3, "Cropping Masks").

    Args:
        masks: [H, W, D]. boxes_xyxy: [D, 4] relative. padding: as `crop_bounds`.

    Returns: [H, W, D].
    """
    height, width = masks.shape[:2]
    x1, y1, x2, y2 = crop_bounds(boxes_xyxy, height, width, padding).unbind(axis=1)
    columns = paddle.arange(width).unsqueeze(-1)
    rows = paddle.arange(height).unsqueeze(-1)
    inside_x = paddle.logical_and(columns >= x1, columns < x2).astype(masks.dtype)
    inside_y = paddle.logical_and(rows >= y1, rows < y2).astype(masks.dtype)
    return masks * inside_y.unsqueeze(1) * inside_x.unsqueeze(0)
