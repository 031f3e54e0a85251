"""From detections to masks and pixel boxes of the original picture (Sec. 3.3)."""
import paddle
import paddle.nn.functional as F

from layers.box_utils import crop, sanitize_coordinates

# Upsampled floats alive at once: 128 MiB. The masks themselves take a byte a pixel each.
MAX_UPSAMPLED = 1 << 25


def assemble_masks(proto, coeffs, boxes, crop_masks=True):
    """Linear combination of prototypes: sigmoid(P C^T), eq. 1, cropped to the boxes.

    Args:
        proto: [h, w, K]. coeffs: [D, K]. boxes: [D, 4] relative.

    Returns: [h, w, D] in 0..1.
    """
    masks = F.sigmoid(paddle.matmul(proto, coeffs, transpose_y=True))
    return crop(masks, boxes) if crop_masks else masks


def upsample_masks(masks, width, height):
    """Bilinear to the picture, then threshold at 0.5. [h, w, D] float -> bool [D, height, width], in bounded memory."""
    masks = masks.transpose([2, 0, 1]).unsqueeze(0)
    step = max(1, MAX_UPSAMPLED // (width * height))
    parts = [F.interpolate(masks[:, i:i + step], size=[height, width], mode="bilinear", align_corners=False) > 0.5
             for i in range(0, masks.shape[1], step)]
    return paddle.concat(parts, axis=1).squeeze(0)


@paddle.no_grad()
def postprocess(detection, width, height, score_threshold=0.0, crop_masks=True):
    """Finish the detections of one picture. The input is not changed.

    Args:
        detection: one dict of `Detect`.
        width, height: of the original picture, in pixels.
        score_threshold: only detections scored above it are kept; 0 keeps all.
        crop_masks: cut masks to their boxes, at prototype resolution (so a mask may spill a little over its
            integer box).

    Returns:
        (classes int64 [D], scores float32 [D], boxes int64 [D, 4] pixels, masks bool [D, height, width] or None
        without a mask branch). Boxes are clamped to the picture, then truncated, as the original.
    """
    classes, scores, boxes, coeffs = (detection[k] for k in ("class", "score", "box", "mask"))
    if score_threshold > 0 and scores.shape[0] > 0:
        keep = paddle.nonzero(scores > score_threshold).flatten()
        classes, scores, boxes, coeffs = (x.index_select(keep) if keep.shape[0] else x[:0]
                                          for x in (classes, scores, boxes, coeffs))
    has_masks = "proto" in detection
    if scores.shape[0] == 0:
        return classes, scores, boxes.astype("int64"), paddle.zeros([0, height, width], "bool") if has_masks else None

    masks = None
    if has_masks:
        masks = upsample_masks(assemble_masks(detection["proto"], coeffs, boxes, crop_masks), width, height)
    x1, x2 = sanitize_coordinates(boxes[:, 0], boxes[:, 2], width)
    y1, y2 = sanitize_coordinates(boxes[:, 1], boxes[:, 3], height)
    return classes, scores, paddle.stack([x1, y1, x2, y2], axis=1).astype("int64"), masks
