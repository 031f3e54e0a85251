"""From network outputs to masks: the three kinds of NMS and postprocess, against the original's."""
import json
import math
import warnings

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import parity
import pytest

from layers.box_utils import crop, crop_bounds
from layers.detection import Detect, highest, pairs_of_class
from layers.output_utils import PictureMasks, assemble_masks, postprocess

WIDTH, HEIGHT = parity.PICTURE_SIZE


def assert_same_detections(ours, theirs):
    """Classes, boxes within 1e-4 of their larger side, scores within 1e-4, coefficients within 1e-3."""
    rows = parity.pair(ours, theirs)
    np.testing.assert_array_equal(ours["class"][rows], theirs["class"])
    side = (theirs["box"][:, 2:] - theirs["box"][:, :2]).max(axis=1, keepdims=True)
    assert (np.abs(ours["box"][rows] - theirs["box"]) <= 1e-4 * side).all()
    np.testing.assert_allclose(ours["score"][rows], theirs["score"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours["mask"][rows], theirs["mask"], rtol=0, atol=1e-3)
    assert (np.diff(ours["score"]) <= 0).all(), "not sorted by score"
    return rows


# --- whole networks -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module", params=parity.CONFIGS)
def figures(request):
    """(config name, golden figures); one network after the other."""
    return request.param, parity.goldens(f"forward_{request.param}.npz")


@pytest.mark.parametrize("mode", parity.MODES)
def test_detections_equal_the_original(figures, mode):
    config_name, golden = figures
    ours = parity.numpy_of(parity.detections(config_name, mode))
    assert_same_detections(ours, {key: golden[f"det_{mode}/{key}"] for key in parity.KEYS})
    assert ours["class"].dtype == "int64" and ours["score"].dtype == ours["box"].dtype == "float32"


def assert_same_masks(ours, theirs):
    """At most 2 pixels differ, or IoU is at least 0.999; empty equals empty."""
    differing = (ours != theirs).sum(axis=(1, 2))
    iou = (ours & theirs).sum(axis=(1, 2)) / np.maximum((ours | theirs).sum(axis=(1, 2)), 1)
    assert ((differing <= 2) | (iou >= 0.999)).all(), (differing.max(), iou.min())


def assert_same_areas(ours, theirs):
    assert (np.abs(ours.sum(axis=(1, 2)) - theirs) <= np.maximum(2, 0.001 * theirs)).all()


@pytest.mark.parametrize("threshold", [0, 0.3])
@pytest.mark.parametrize("mode", parity.MODES)
def test_postprocess_equals_the_original(figures, mode, threshold):
    config_name, golden = figures
    stored = {key.split("/")[1]: value for key, value in golden.items()
              if key.startswith(f"post_{mode}_{threshold}/")}
    detection = parity.in_golden_order(config_name, mode, golden)
    found = postprocess(detection, WIDTH, HEIGHT, threshold, maskiou_net=parity.forward(config_name).maskiou_net)
    classes, scores, boxes, masks, mask_scores, _ = found.numpy()
    masks = masks.numpy()
    np.testing.assert_array_equal(classes, stored["class"])
    np.testing.assert_allclose(scores, stored["score"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(mask_scores, stored.get("mask_score", stored["score"]), rtol=0, atol=1e-4)
    assert boxes.dtype == stored["box"].dtype and boxes.shape == stored["box"].shape
    assert (np.abs(boxes - stored["box"]) <= 1).all()
    assert masks.dtype == bool and masks.shape == (len(scores), HEIGHT, WIDTH)
    assert_same_areas(masks, stored["mask_area"])
    if mode == "fast":
        counts = json.loads(bytes(stored["mask_rle"]))
        assert_same_masks(masks, parity.decode_masks(counts, HEIGHT, WIDTH).astype(bool))


def test_uncropped_masks_equal_the_original(figures):
    config_name, golden = figures
    detection = parity.in_golden_order(config_name, "fast", golden)
    masks = postprocess(detection, WIDTH, HEIGHT, crop_masks=False)[3].numpy()
    assert_same_areas(masks, golden["post_fast_0_nocrop/mask_area"])


def test_re_scoring_changes_scores_and_their_order():
    scores = parity.goldens("forward_yolact_plus_base.npz")["post_fast_0/mask_score"]
    assert (np.diff(scores) > 0).any() and (np.diff(scores) < 0).any()


def test_the_threshold_of_the_stored_figures_matters():
    golden = parity.goldens("forward_yolact_base.npz")
    assert 0 < len(golden["post_cross_0.3/score"]) < len(golden["post_cross_0/score"])
    assert (golden["post_fast_0_nocrop/mask_area"] > golden["post_fast_0/mask_area"]).any()


# --- NMS on its own -----------------------------------------------------------------------------------------

def make_detect(**options):
    settings = {"top_k": 200, "conf_thresh": 0.05, "nms_thresh": 0.5, "max_num_detections": 100}
    return Detect(**{**settings, "max_size": 550, **options})


def run_nms(method, boxes, scores, coeffs):
    index, classes, scores = method(paddle.to_tensor(boxes), paddle.to_tensor(scores))
    rows = index.numpy()
    return {"box": boxes[rows], "mask": coeffs[rows], "class": classes.numpy(), "score": scores.numpy()}


@pytest.mark.parametrize("case, method, options", [
    ("fast", "fast_nms", {}),
    ("fast_top10", "fast_nms", {"top_k": 10}),
    ("cc", "cross_class_fast_nms", {}),
    ("cc_top10", "cross_class_fast_nms", {"top_k": 10}),
    ("trad", "traditional_nms", {}),
])
def test_nms_equals_the_original(case, method, options):
    golden = parity.goldens("boxutils.npz")
    detect = make_detect(**options)
    ours = run_nms(getattr(detect, method), golden["nms/boxes"], golden["nms/scores"], golden["nms/coeff"])
    assert_same_detections(ours, {key: golden[f"nms/{case}/{key}"] for key in parity.KEYS})


def plain_nms(boxes, scores, threshold):
    """Sequential NMS as the original counts: inclusive pixels, suppressed at IoU >= threshold. Rows kept."""
    boxes = boxes.astype("float64")
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    alive = np.ones(len(boxes), bool)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not alive[i]:
            continue
        kept.append(i)
        width = np.minimum(boxes[i, 2], boxes[:, 2]) - np.maximum(boxes[i, 0], boxes[:, 0]) + 1
        height = np.minimum(boxes[i, 3], boxes[:, 3]) - np.maximum(boxes[i, 1], boxes[:, 1]) + 1
        inter = width.clip(0) * height.clip(0)
        alive &= inter / (areas[i] + areas - inter) < threshold
    return kept


def distinct_scores(random, *shape):
    count = int(np.prod(shape))
    return (random.permutation(count).reshape(shape) + 1).astype("float32") / (count + 1)


@pytest.mark.parametrize("seed", range(12))
def test_traditional_nms_is_the_plain_loop(seed):
    """Boxes on whole pixels of a small canvas, so that IoU is often exactly the threshold."""
    random = np.random.RandomState(seed)
    low = random.randint(0, 24, [60, 2])
    pixels = np.concatenate([low, low + random.randint(0, 12, [60, 2])], axis=1).astype("float32")
    scores = distinct_scores(random, 4, 60)
    detect = make_detect(nms_thresh=0.5, conf_thresh=0.3, max_num_detections=1000, max_size=64)
    ours = run_nms(detect.traditional_nms, pixels / 64, scores, pixels)
    expected = []
    for label, class_scores in enumerate(scores):
        candidates = np.flatnonzero(class_scores > 0.3)
        kept = plain_nms(pixels[candidates], class_scores[candidates], 0.5)
        expected += [(label, row) for row in candidates[kept]]
    expected.sort(key=lambda found: -scores[found])
    np.testing.assert_array_equal(ours["class"], [label for label, _ in expected])
    np.testing.assert_array_equal(ours["score"], [scores[found] for found in expected])
    np.testing.assert_array_equal(ours["mask"], pixels[[row for _, row in expected]])


def plain_fast_nms(boxes, scores, top_k, threshold):
    """Fast NMS of one class as its definition says. Rows kept, by falling score."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    kept = []
    for position, i in enumerate(order):
        overlaps = []
        for j in order[:position]:
            size = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            inter = size.clip(0).prod()
            union = (boxes[i, 2:] - boxes[i, :2]).prod() + (boxes[j, 2:] - boxes[j, :2]).prod() - inter
            overlaps.append(inter / union)
        if max(overlaps, default=0) <= threshold:
            kept.append(i)
    return kept


def random_boxes(random, count):
    """On a grid of 1/64, so that IoU can be exactly 0.5."""
    low = random.randint(0, 24, [count, 2])
    return np.concatenate([low, low + random.randint(1, 12, [count, 2])], axis=1).astype("float32") / 64


@pytest.mark.parametrize("seed", range(6))
def test_fast_nms_is_its_definition(seed):
    """Also after the cut to the best detections, which counts over all classes."""
    random = np.random.RandomState(seed)
    boxes, scores = random_boxes(random, 60), distinct_scores(random, 3, 60)
    ours = run_nms(make_detect(top_k=40, max_num_detections=25).fast_nms, boxes, scores, boxes)
    expected = [(label, row) for label in range(3)
                for row in plain_fast_nms(boxes.astype("float64"), scores[label], 40, 0.5)]
    expected.sort(key=lambda found: -scores[found])
    assert len(expected) > 25
    np.testing.assert_array_equal(ours["class"], [label for label, _ in expected[:25]])
    np.testing.assert_array_equal(ours["mask"], boxes[[row for _, row in expected[:25]]])


@pytest.mark.parametrize("seed", range(6))
def test_cross_class_fast_nms_takes_each_box_once_with_its_best_class(seed):
    random = np.random.RandomState(seed)
    boxes, scores = random_boxes(random, 60), distinct_scores(random, 3, 60)
    ours = run_nms(make_detect(top_k=40, max_num_detections=5).cross_class_fast_nms, boxes, scores, boxes)
    expected = plain_fast_nms(boxes.astype("float64"), scores.max(axis=0), 40, 0.5)
    assert len(expected) > 5  # max_num_detections does not apply, as in the original
    np.testing.assert_array_equal(ours["mask"], boxes[expected])
    np.testing.assert_array_equal(ours["class"], scores.argmax(axis=0)[expected])
    np.testing.assert_array_equal(ours["score"], scores.max(axis=0)[expected])


def test_a_suppressed_box_suppresses_in_fast_nms_only():
    """A chain of three, each over the next by IoU 0.6: plain NMS keeps the last, Fast NMS does not."""
    boxes = np.array([[0, 0, 16, 8], [4, 0, 20, 8], [8, 0, 24, 8]], "float32") / 64
    scores = np.array([[0.9, 0.8, 0.7]], "float32")
    fast = run_nms(make_detect().fast_nms, boxes, scores, boxes)
    plain = run_nms(make_detect(max_size=6400).traditional_nms, boxes, scores, boxes)
    np.testing.assert_array_equal(fast["score"], scores[0, :1])
    np.testing.assert_array_equal(plain["score"], scores[0, [0, 2]])


# --- Detect on its own --------------------------------------------------------------------------------------

def made_up_outputs(seed=0, batch=1, priors=50, classes=4, coeffs=8):
    random = np.random.RandomState(seed)
    centre, size = random.uniform(0.2, 0.8, [priors, 2]), random.uniform(0.1, 0.4, [priors, 2])
    arrays = {"loc": random.standard_normal([batch, priors, 4]),
              "conf": 3 * random.standard_normal([batch, priors, classes]),
              "mask": np.tanh(random.standard_normal([batch, priors, coeffs])),
              "priors": np.concatenate([centre, size], axis=1),
              "proto": random.standard_normal([batch, 20, 24, coeffs]).clip(0)}
    return {name: paddle.to_tensor(array.astype("float32")) for name, array in arrays.items()}


@pytest.mark.parametrize("mode", parity.MODES)
def test_pictures_of_a_batch_are_independent_and_may_be_empty(mode):
    out = made_up_outputs(batch=3)
    out["conf"][1, :, 0] = 50.0  # nothing but background
    detect = make_detect(**parity.MODES[mode])
    first, empty, third = (parity.numpy_of(detection) for detection in detect(out))
    [alone] = detect({name: value if name == "priors" else value[2:] for name, value in out.items()})
    for key, value in parity.numpy_of(alone).items():
        np.testing.assert_allclose(value, third[key], atol=1e-6)
    assert len(first["score"]) > 0
    assert [empty[key].shape for key in parity.KEYS] == [(0, 4), (0,), (0,), (0, 8)]
    assert {key: empty[key].dtype for key in parity.KEYS} == {key: first[key].dtype for key in parity.KEYS}


@pytest.mark.parametrize("mode", parity.MODES)
def test_detect_scores_and_boxes_come_from_one_prior(mode):
    """Softmax over the classes with background; the background's own score is never a detection."""
    out = made_up_outputs()
    logits = out["conf"].numpy()[0].astype("float64")
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = parity.numpy_of(make_detect(**parity.MODES[mode])(out)[0])
    for score, label, coeffs in zip(found["score"], found["class"], found["mask"]):
        [prior] = np.flatnonzero((out["mask"].numpy()[0] == coeffs).all(axis=1))
        assert abs(scores[prior, label + 1] - score) < 1e-6
        assert scores[prior, 1:].max() > 0.05
    # As the original: traditional NMS thresholds every class, Fast NMS only a prior's best one.
    assert (found["score"] > 0.05).all() == (mode != "fast")


def test_detect_without_a_mask_branch_has_no_prototypes():
    out = made_up_outputs()
    assert "proto" in make_detect()(out)[0]
    del out["proto"]
    assert "proto" not in make_detect()(out)[0]


# --- postprocess on its own ---------------------------------------------------------------------------------

@pytest.fixture
def detection():
    return make_detect()(made_up_outputs())[0]


@pytest.mark.parametrize("threshold", [0, 0.5, 2.0])
def test_postprocess_does_not_change_its_input(detection, threshold):
    before = {key: value.numpy().copy() for key, value in detection.items()}
    first = postprocess(detection, 70, 50, threshold)
    second = postprocess(detection, 70, 50, threshold)
    assert set(detection) == set(before)
    for key, value in before.items():
        np.testing.assert_array_equal(detection[key].numpy(), value)
    for one, two in zip(first, second):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_the_threshold_keeps_what_is_above_it(detection):
    scores = detection["score"].numpy()
    threshold = float(scores[len(scores) // 2])
    found = postprocess(detection, 70, 50, threshold)
    np.testing.assert_array_equal(found[1].numpy(), scores[scores > threshold])
    np.testing.assert_array_equal(found.rows.numpy(), np.flatnonzero(scores > threshold))
    assert {len(part) for part in found} == {(scores > threshold).sum()}


def assert_empty(found, height, width):
    classes, scores, boxes, masks, mask_scores, rows = found
    assert [classes.shape, scores.shape, boxes.shape, mask_scores.shape, rows.shape] == [[0], [0], [0, 4], [0], [0]]
    assert masks.numpy().shape == (0, height, width) and masks.numpy().dtype == bool
    assert str(boxes.numpy().dtype) == str(classes.numpy().dtype) == "int64"


def test_no_detections_are_an_ordinary_input(detection):
    """Whether the threshold takes all of them or there were none."""
    assert_empty(postprocess(detection, 70, 50, 2.0), 50, 70)
    out = made_up_outputs()
    out["conf"][:, :, 0] = 50.0
    [nothing] = make_detect()(out)
    assert_empty(postprocess(nothing, 70, 50), 50, 70)
    assert_empty(postprocess(nothing, 70, 50, 0.3), 50, 70)


def test_without_prototypes_there_are_boxes_and_no_masks(detection):
    boxes = postprocess(detection, 70, 50)[2].numpy()
    del detection["proto"]
    found = postprocess(detection, 70, 50)
    assert found[3] is None
    np.testing.assert_array_equal(found[2].numpy(), boxes)
    assert postprocess(detection, 70, 50, 2.0)[3] is None


def test_boxes_are_clamped_and_truncated(detection):
    kept = {key: value[:2] if key in parity.KEYS else value for key, value in detection.items()}
    kept["box"] = paddle.to_tensor([[-0.1, 0.259, 0.999, 1.3], [0.9, 0.8, 0.1, 0.2]])
    boxes = postprocess(kept, 100, 50)[2].numpy()
    np.testing.assert_array_equal(boxes, [[0, 12, 99, 50], [10, 10, 90, 40]])


def test_masks_are_the_sigmoid_of_the_combination_inside_the_box():
    random = np.random.RandomState(0)
    proto, coeffs = (random.standard_normal(shape).astype("float32") for shape in ([6, 8, 5], [3, 5]))
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.5, 1], [0.5, 0, 0.75, 0.5]], "float32")
    arguments = [paddle.to_tensor(x) for x in (proto, coeffs, boxes)]
    whole = 1 / (1 + np.exp(-np.einsum("hwk,dk->hwd", proto.astype("float64"), coeffs)))
    np.testing.assert_allclose(assemble_masks(*arguments, crop_masks=False).numpy(), whole, atol=1e-6)
    cropped = assemble_masks(*arguments).numpy()
    inside = np.zeros([6, 8, 3])
    inside[..., 0], inside[2:, 1:5, 1], inside[:4, 3:7, 2] = 1, 1, 1  # one pixel of padding
    np.testing.assert_allclose(cropped, whole * inside, atol=1e-6)


def test_upsampling_is_bilinear_then_above_one_half():
    # Values 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1: no corner alignment.
    found = PictureMasks(np.array([[[0.0, 1.0]]], "float32"), 3, 8).numpy()
    np.testing.assert_array_equal(found, np.tile([False] * 4 + [True] * 4, (1, 3, 1)))
    assert not PictureMasks(np.array([[[0.5, 0.5]]], "float32"), 3, 8).numpy().any()


@pytest.mark.parametrize("height, width", [(480, 640), (50, 70), (20, 600), (1200, 40), (7, 5), (2, 2)])
@pytest.mark.parametrize("side", [(138, 138), (16, 16), (5, 9)])
def test_enlarging_a_window_equals_enlarging_everything(side, height, width):
    """Smooth and rough masks, small ones in the middle, in corners, at edges, all over, and empty ones."""
    random = np.random.RandomState(0)
    small = np.stack([cv2.GaussianBlur(random.rand(*side), (0, 0), sigma) for sigma in (0.5, 1, 2, 4)] * 3)
    small = ((small - small.min()) / (small.max() - small.min())).astype("float32")
    small[4:6, 2:, :3] = 0
    small[6:8, :, :-1] = 0
    small[8, :-1], small[9], small[10] = 0, 0, 1
    plain = F.interpolate(paddle.to_tensor(small[None]), size=[height, width], mode="bilinear", align_corners=False)
    ours, values = PictureMasks(small, height, width).numpy(), plain[0].numpy()
    certain = np.abs(values - 0.5) > 1e-5
    np.testing.assert_array_equal(ours[certain], (values > 0.5)[certain])
    assert certain.mean() > 0.99 and ours.dtype == bool and not ours[9].any() and ours[10].all()


def test_exactly_one_half_is_outside_and_far_logits_are_no_warning():
    half = np.array([[[0.0, 1.0]]], "float32")
    np.testing.assert_array_equal(PictureMasks(half, 1, 3).numpy(), [[[False, False, True]]])  # 0, 1/2, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, _, window = PictureMasks(np.array([[[-200.0, 5], [5, 5]]], "float32"), 2, 2, logits=True).window(0)
    np.testing.assert_array_equal(window, [[False, True], [True, True]])


def test_windows_are_small_and_chosen_masks_are_the_same():
    small = np.zeros((3, 138, 138), "float32")
    small[0, 10:14, 20:30], small[2, 0, 0] = 1, 1
    masks = PictureMasks(small, 6000, 8000)
    x, y, window = masks.window(0)
    assert window.size < 400 * 900 and (x, y) <= (20 / 138 * 8000, 10 / 138 * 6000) and window.any()
    assert masks.window(1)[2].shape == (0, 0)
    for chosen, expected in [([2, 0], [2, 0]), (slice(1, None), [1, 2]), (np.array([True, False, False]), [0])]:
        part = masks[chosen]
        assert len(part) == len(expected)
        for index, number in enumerate(expected):
            np.testing.assert_array_equal(part.window(index)[2], masks.window(number)[2])


@pytest.mark.parametrize("height, width", [(48, 64), (31, 7), (300, 200)])
def test_cropping_with_the_enlarging_equals_cropping_before(height, width):
    """Boxes inside, at the borders, over them, outside on every side, empty, turned round."""
    random = np.random.RandomState(0)
    boxes = np.concatenate([random.uniform(-0.3, 1.3, (60, 4)), [
        [0, 0, 1, 1], [-1, 0.2, -0.5, 0.4], [1.2, 0.1, 1.5, 0.9], [0.1, -2, 0.9, -1], [0.3, 1.1, 0.4, 1.2],
        [0.5, 0.5, 0.5, 0.5], [0.9, 0.8, 0.1, 0.2], [0.999, 0.999, 1, 1]]]).astype("float32")
    small = random.rand(len(boxes), 13, 17).astype("float32")
    bounds = crop_bounds(paddle.to_tensor(boxes), 13, 17).numpy()
    before = crop(paddle.to_tensor(small.transpose(1, 2, 0)), paddle.to_tensor(boxes)).numpy().transpose(2, 0, 1)
    ours = PictureMasks(small, height, width, crops=bounds)
    np.testing.assert_array_equal(ours.numpy(), PictureMasks(before, height, width).numpy())
    np.testing.assert_array_equal(ours[[3, 60]].numpy(), ours.numpy()[[3, 60]])
    assert ours.numpy().any(axis=(1, 2)).sum() > 30


# --- shortcuts of the detection -----------------------------------------------------------------------------

def crowded(seed, classes, count=300, objects=12, some_equal=True):
    """Boxes [n, 4] around a few objects, and scores [classes, n]."""
    random = np.random.RandomState(seed)
    centres = random.rand(objects, 2).repeat(count // objects + 1, axis=0)[:count]
    centres += random.normal(0, 0.02, centres.shape)
    sizes = random.uniform(0.1, 0.3, (count, 2))
    scores = random.rand(classes, count) ** random.choice([1, 6])
    if some_equal:
        scores[:, ::7] = np.round(scores[:, ::7], 2)
    return [paddle.to_tensor(part.astype("float32")) for part in
            (np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), scores)]


def all_fast_nms(boxes, scores, top_k, threshold, most):
    """Fast NMS as the paper has it, class after class, on all pairs of candidates -> rows of (score, box, class)."""
    found = []
    for label, of_class in enumerate(scores):
        order = np.argsort(-of_class, kind="stable")[:top_k]
        low, high = boxes[order, :2], boxes[order, 2:]
        inter = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(axis=-1)
        area = (high - low).prod(axis=1)
        overlap = np.triu(inter / (area[:, None] + area - inter), 1).max(axis=0)
        found += [(of_class[row], row, label) for row in order[overlap <= threshold]]
    return sorted(found, key=lambda entry: -entry[0])[:most]


@pytest.mark.parametrize("top_k, most", [(200, 100), (20, 100), (200, 7), (5, 1000)])
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_fast_nms_is_that_of_all_candidates(classes, top_k, most):
    """Crowded boxes, so that few of the best are left and more have to be looked at.

    Some scores are equal, but where that would leave open which are among a small top_k.
    """
    for seed in range(4):
        boxes, scores = crowded(seed, classes, some_equal=top_k == 200)
        index, labels, best = (part.numpy() for part in Detect(top_k, 0.05, 0.5, most, 550).fast_nms(boxes, scores))
        plain = all_fast_nms(boxes.numpy(), scores.numpy(), top_k, 0.5, most)
        np.testing.assert_array_equal(best, [score for score, _, _ in plain])
        distinct = np.flatnonzero((np.diff(best, prepend=2) != 0) & (np.diff(best, append=best[-1]) != 0))
        np.testing.assert_array_equal(index[distinct], [plain[row][1] for row in distinct])
        np.testing.assert_array_equal(labels[distinct], [plain[row][2] for row in distinct])


@pytest.mark.parametrize("count", [350, 3000])
def test_fast_nms_looks_further_when_few_of_the_best_are_left(count):
    """One class all in one place, above another whose boxes are apart; the top_k bounds what is compared."""
    boxes = np.zeros((count, 4), "float32")
    boxes[:, 0] = np.linspace(0, 1, count)
    boxes[:, 1], boxes[:, 2], boxes[:, 3] = 0, boxes[:, 0] + 1e-5, 1
    boxes[120:] = [0.1, 0.1, 0.6, 0.6]
    scores = np.stack([np.linspace(0.9, 0.8, count), np.linspace(0.5, 0.4, count)]).astype("float32")
    scores[0, :120] = np.linspace(0.2, 0.1, 120)
    index, classes, best = make_detect().fast_nms(paddle.to_tensor(boxes), paddle.to_tensor(scores))
    assert index.tolist() == [120, *range(99)] and classes.tolist() == [0] + [1] * 99
    np.testing.assert_array_equal(best.numpy(), [scores[0, 120], *scores[1, :99]])


@pytest.mark.parametrize("method", ["fast_nms", "cross_class_fast_nms"])
def test_an_overlap_of_exactly_the_threshold_is_allowed(method):
    boxes = paddle.to_tensor([[0.0, 0, 1, 1], [0.0, 0, 0.5, 1]])
    index, _, _ = getattr(Detect(200, 0.05, 0.5, 100, 550), method)(boxes, paddle.to_tensor([[0.9, 0.8]]))
    assert index.tolist() == [0, 1]


def test_fast_nms_looks_as_far_as_it_must():
    """Of boxes that are all in one place but the last, the first and the last are left."""
    boxes = np.tile(np.float32([0.1, 0.1, 0.6, 0.6]), (60, 1))
    boxes[-1] = [0.7, 0.7, 0.9, 0.9]
    scores = np.linspace(0.9, 0.1, 60, dtype="float32")[np.newaxis]
    detect = Detect(200, 0.05, 0.5, max_num_detections=2, max_size=550)
    index, _, _ = detect.fast_nms(paddle.to_tensor(boxes), paddle.to_tensor(scores))
    assert index.tolist() == [0, 59]


def test_a_box_without_area_is_left_out_as_by_the_original():
    """The IoU of two such boxes is not a number, which is not below the threshold; the first has no box before it."""
    boxes = paddle.to_tensor([[0.5, 0.5, 0.5, 0.5]] * 2 + [[0.0, 0.0, 0.2, 0.2]])
    index, _, _ = make_detect().fast_nms(boxes, paddle.to_tensor([[0.9, 0.8, 0.7]]))
    assert index.tolist() == [0, 2]


def test_pairs_of_class_are_all_pairs_and_their_ranks():
    classes = np.random.RandomState(0).randint(0, 5, 40)
    former, latter, rank = (part.numpy() for part in pairs_of_class(paddle.to_tensor(classes)))
    plain = {(i, j) for j in range(40) for i in range(j) if classes[i] == classes[j]}
    assert set(zip(former, latter)) == plain and len(former) == len(plain)
    assert rank.tolist() == [int((classes[:j] == classes[j]).sum()) for j in range(40)]
    assert [part.shape for part in pairs_of_class(paddle.to_tensor([3, 1, 2]))] == [[0], [0], [3]]


@pytest.mark.parametrize("count", [1, 30, 299, 300, 500, 900])
def test_highest_scores_of_all_classes(count):
    """Fewer and more than there are boxes, whose best scores bound the highest from below."""
    _, scores = crowded(1, 3)
    best, entry = highest(scores, count)
    np.testing.assert_array_equal(best.numpy(), -np.sort(-scores.numpy().ravel())[:count])
    np.testing.assert_array_equal(scores.numpy().ravel()[entry.numpy()], best.numpy())
    assert len(set(entry.tolist())) == count


@pytest.mark.parametrize("margin, found", [(1e-4, 1), (-1e-4, 0)])
def test_a_score_just_above_the_threshold_is_a_detection(margin, found):
    """The second prior's, which the background shares with one class alone."""
    logit = math.log(0.05 / 0.95) + margin
    out = {"conf": [[[9.0, 0, -100], [0, logit, -100]]], "loc": np.zeros([1, 2, 4]), "mask": np.zeros([1, 2, 1]),
           "priors": [[0.5, 0.5, 0.2, 0.2]] * 2}
    out = {name: paddle.to_tensor(np.asarray(value, "float32")) for name, value in out.items()}
    [detections] = Detect(200, 0.05, 0.5, 100, 550)(out)
    assert (detections["score"].numpy() > 0.05).sum() == found  # the other class is there too, without a score


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("mode", ["ohem", "sigmoid", "objectness"])
def test_priors_far_below_the_threshold_change_nothing(mode, threshold, monkeypatch):
    random = np.random.RandomState(0)
    out = made_up_outputs()
    logits = random.normal(0, 3, out["conf"].shape).astype("float32")
    logits[..., 0] += 2
    out["conf"] = paddle.to_tensor(logits)
    detect = Detect(200, threshold, 0.5, 100, 550, conf_mode=mode)
    near = detect.near_threshold(out["conf"][0])
    [ours] = detect(out)
    monkeypatch.setattr(Detect, "near_threshold", lambda self, logits: paddle.arange(logits.shape[0]))
    [whole] = detect(out)
    for key in parity.KEYS:
        np.testing.assert_allclose(ours[key].numpy(), whole[key].numpy(), rtol=1e-6, atol=1e-7)
    if mode == "ohem" and 0.01 <= threshold < 1:
        assert 0 < near.shape[0] < logits.shape[1]
    else:
        assert near.shape[0] == logits.shape[1]
