"""Detection with options that the published networks leave off: scores, direct masks, re-scoring."""

import cv2
import numpy as np
import paddle
import pytest
from ablations import CLASSES, FOCAL, inside_box, made_up_outputs, sigmoid, softmax, tensors, tiny

from layers.detection import CLASS_SCORES, Detect
from layers.mask_iou_net import FastMaskIoUNet
from layers.multibox_loss import FOCAL_LOSSES
from layers.output_utils import Detections, PictureMasks, postprocess
from yolact import build_detect

# --- scores -------------------------------------------------------------------------------------------------

def plain_scores(conf, mode):
    if mode == "sigmoid":
        return sigmoid(conf)
    if mode != "objectness":
        return softmax(conf)
    objectness = sigmoid(conf[..., :1])
    return np.concatenate([1 - objectness, objectness * softmax(conf[..., 1:])], axis=-1)


@pytest.mark.parametrize("mode", ["ohem", *FOCAL_LOSSES])
def test_class_scores_follow_the_class_loss(mode):
    assert set(CLASS_SCORES) == {"ohem", *FOCAL_LOSSES}
    conf = 3 * np.random.RandomState(0).standard_normal([2, 9, 5])
    np.testing.assert_allclose(CLASS_SCORES[mode](*tensors(conf)).numpy(), plain_scores(conf, mode), rtol=0, atol=1e-6)


@pytest.mark.parametrize("has_score", [False, True])
@pytest.mark.parametrize("mode", ["ohem", *FOCAL_LOSSES])
def test_detections_have_these_scores(mode, has_score):
    """Mask scoring multiplies them by the estimated IoU, before the threshold."""
    out = made_up_outputs(1, 80, **({"score": 1} if has_score else {}))
    expected = plain_scores(out["conf"].numpy().astype("float64"), mode)[0, :, 1:]
    if has_score:
        expected *= sigmoid(out["score"].numpy())[0]
    config = tiny(nms_conf_thresh=0.2, **FOCAL.get(mode, {}))
    for detect in (Detect(200, 0.2, 0.5, 100, 48, cross_class_nms=True, conf_mode=mode),
                   build_detect(config, cross_class_nms=True)):
        [found] = detect(out)
        assert 0 < len(found["score"]) < 80
        for score, label, coeffs in zip(*(found[key].numpy() for key in ("score", "class", "mask"))):
            [prior] = np.flatnonzero((out["mask"].numpy()[0] == coeffs).all(axis=1))
            assert label == expected[prior].argmax() and abs(score - expected[prior].max()) < 1e-6
        assert found["score"].numpy().min() > 0.2


# --- masks of detections ------------------------------------------------------------------------------------

PASTED = np.array([[0, 0, 40, 30], [3, 4, 20, 9], [30, 0, 40, 30], [0, 25, 40, 30], [7, 7, 8, 8], [5, 2, 6, 29],
                   [12, 12, 12, 20], [9, 20, 30, 20], [40, 30, 40, 30], [1, 1, 38, 4]])


def pasted_with_opencv(masks, boxes, width, height):
    """Values before the threshold, float32 [D, height, width]; 0 outside the boxes."""
    found = np.zeros([len(masks), height, width], "float32")
    for values, mask, (x1, y1, x2, y2) in zip(found, masks, boxes):
        if x2 > x1 and y2 > y1:
            values[y1:y2, x1:x2] = cv2.resize(mask, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    return found


@pytest.mark.parametrize("side", [1, 6, 16])
def test_direct_masks_are_resized_into_their_boxes(side):
    """At the border, a pixel large or wide, and empty ones; enlarged and reduced."""
    masks = np.random.RandomState(0).rand(len(PASTED), side, side).astype("float32")
    expected = pasted_with_opencv(masks, PASTED, 40, 30)
    ours = PictureMasks(masks, 30, 40, PASTED).numpy()
    assert ours.shape == (len(PASTED), 30, 40) and ours.dtype == bool
    certain = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal(ours[certain], (expected > 0.5)[certain])
    assert certain.mean() > 0.99 and not ours[6:9].any() and ours[:4].any(axis=(1, 2)).sum() >= 3


def test_best_sorts_cuts_and_thresholds():
    scores = np.array([0.2, 0.9, 0.5, 0.5, 0.7])
    number = np.arange(5)
    found = Detections(number, scores, number[:, None], None, -scores, number)
    for count, threshold, rows in [(None, 0, [1, 4, 2, 3, 0]), (2, 0, [1, 4]), (None, 0.5, [1, 4]), (9, 1, []),
                                   (3, 0.6, [1, 4])]:
        best = found.best(count, threshold)
        assert best.classes.tolist() == best.boxes[:, 0].tolist() == best.rows.tolist() == rows and best.masks is None
        assert best.scores.tolist() == scores[rows].tolist() == (-best.mask_scores).tolist()


@pytest.fixture
def detection():
    return Detect(200, 0.2, 0.5, 100, 48)(made_up_outputs(1))[0]


@pytest.mark.parametrize("rescore_bbox", [False, True])
def test_a_mask_iou_net_re_scores_masks_and_on_request_boxes(detection, rescore_bbox):
    paddle.seed(1)
    net = FastMaskIoUNet([(4, 3, {"stride": 2})], CLASSES - 1)
    plain = postprocess(detection, 50, 40).numpy()
    ours = postprocess(detection, 50, 40, maskiou_net=net, rescore_bbox=rescore_bbox).numpy()
    estimates = []
    for box, coeffs, label in zip(*(detection[key].numpy() for key in ("box", "mask", "class"))):
        low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
        mask = sigmoid(detection["proto"].numpy().astype("float64") @ coeffs) * inside_box([*low, *high])
        estimates.append(net(*tensors(mask[None, None])).numpy()[0, label])
    rescored = detection["score"].numpy() * estimates
    assert len(np.unique(estimates)) > 3 and (plain.mask_scores == plain.scores).all()
    np.testing.assert_allclose(ours.mask_scores, rescored, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ours.scores, ours.mask_scores if rescore_bbox else plain.scores)
    np.testing.assert_array_equal(ours.masks.numpy(), plain.masks.numpy())


def test_the_threshold_is_on_scores_before_re_scoring(detection):
    net = FastMaskIoUNet([], CLASSES - 1)
    for parameter in net.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    found = postprocess(detection, 50, 40, 0.3, maskiou_net=net, rescore_bbox=True).numpy()
    assert len(found.scores) == (detection["score"].numpy() > 0.3).sum() > 0 and not found.scores.any()
