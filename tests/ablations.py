"""What the tests of options that the published networks leave off share: tiny configs, made-up outputs, formulas."""

from types import SimpleNamespace

import numpy as np
import paddle

from data.config import get_config
from layers.matching import match

TINY = {"max_size": 48, "fpn": {"num_features": 16}, "backbone": {"args": ([1, 1, 1], None, 1, 8)},
        "extra_head_net": [(16, 3, {"padding": 1})], "nms_conf_thresh": 0.0,
        "mask_proto_net": [(16, 3, {"padding": 1}), (None, -2, {}), (8, 1, {})]}
FOCAL = {"focal": {"use_focal_loss": True},
         "sigmoid": {"use_focal_loss": True, "use_sigmoid_focal_loss": True},
         "objectness": {"use_focal_loss": True, "use_objectness_score": True}}
MASK_IOU = {"use_maskiou": True, "rescore_mask": True, "maskiou_net": [(8, 3, {"stride": 2}), (16, 3, {"stride": 2})]}
COEFFS, CLASSES, SIDE = 4, 4, 12  # of made-up outputs; the prototypes are SIDE x SIDE


def tiny(**overrides):
    """The demo config, made small enough for a pass in a tenth of a second."""
    return get_config("yolact_demo").copy(TINY).copy(overrides)


def tensors(*arrays):
    """float64 becomes float32, integers int64."""
    types = {"f": "float32", "i": "int64", "u": "uint8"}
    return [paddle.to_tensor(array.astype(types[array.dtype.kind])) for array in arrays]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def softmax(x):
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def smooth_l1(difference):
    difference = abs(difference)
    return difference ** 2 / 2 if difference < 1 else difference - 0.5


def made_up_outputs(batch=2, priors=60, **more):
    """What a small network would return in training, in random numbers; `more`: widths of further outputs."""
    random = np.random.RandomState(0)
    out = {"loc": random.standard_normal([batch, priors, 4]), "conf": random.standard_normal([batch, priors, CLASSES]),
           "mask": np.tanh(random.standard_normal([batch, priors, COEFFS])),
           "proto": random.standard_normal([batch, SIDE, SIDE, COEFFS]).clip(0)}
    out.update({name: random.standard_normal([batch, priors, width]) for name, width in more.items()})
    out = {name: tensors(value)[0] for name, value in out.items()}
    for value in out.values():
        value.stop_gradient = False
    centres, sizes = random.uniform(0.2, 0.8, [priors, 2]), random.uniform(0.15, 0.5, [priors, 2])
    [out["priors"]] = tensors(np.concatenate([centres, sizes], axis=1))
    return out


def made_up_target(areas, seed=0, size=48):
    """Objects whose masks fill so much of their boxes."""
    random = np.random.RandomState(seed)
    masks, boxes = np.zeros([len(areas), size, size], "uint8"), np.zeros([len(areas), 4], "float32")
    for mask, box, area in zip(masks, boxes, areas):
        (x, y), (w, h) = random.randint(0, size // 2, 2), random.randint(size // 4, size // 2, 2)
        mask[y:y + round(h * area), x:x + w] = 1
        box[:] = x / size, y / size, (x + w) / size, (y + h) / size
    return SimpleNamespace(boxes=boxes, labels=random.randint(0, CLASSES - 1, len(areas)), masks=masks, num_crowds=0,
                           image_id=0)


def inside_box(box):
    """1 where the crop leaves a mask, 0 around it: the box and a pixel on each side."""
    cells = np.arange(SIDE)
    x = (cells >= max(box[0] * SIDE - 1, 0)) & (cells < min(box[2] * SIDE + 1, SIDE))
    y = (cells >= max(box[1] * SIDE - 1, 0)) & (cells < min(box[3] * SIDE + 1, SIDE))
    return y[:, None] & x


def positives_of(config, out, targets):
    """(picture, prior, object) of every positive prior."""
    thresholds = (config.positive_iou_threshold, config.negative_iou_threshold, config.crowd_iou_threshold)
    for i, target in enumerate(targets):
        no_crowds = np.zeros([0, 4], "float32")
        arrays = (target.boxes, target.labels, no_crowds, out["priors"].numpy())
        _, conf, index = (x.numpy() for x in match(*map(paddle.to_tensor, arrays), *thresholds))
        yield from ((i, prior, index[prior]) for prior in np.flatnonzero(conf > 0))


def plain_diversity(coeffs, index):
    total = 0.0
    for i, first in enumerate(coeffs):
        for j, second in enumerate(coeffs):
            similarity = (first @ second / np.linalg.norm(first) / np.linalg.norm(second) + 1) / 2
            total += 1 - similarity if index[i] == index[j] else similarity
    return total / len(coeffs)
