"""The evaluation transform and the training augmentation: the original's figures, ranges, probabilities."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.coco import COCODetection
from data.config import COCO_CLASSES, COCO_LABEL_MAP, MEANS, STD, get_config
from utils import augmentation_draws as draws
from utils.augmentations import (
    BaseTransform,
    SSDAugmentation,
    base_transform,
    build_augmentation,
    distort,
    place_boxes,
    place_planes,
)

GOLDENS = Path(__file__).parent / "goldens"
RESNET = {"channel_order": "RGB", "normalize": True, "subtract_means": False, "to_float": False}
DARKNET = {"channel_order": "RGB", "normalize": False, "subtract_means": False, "to_float": True}
DRAWS = 6000


def uniform_error(values, low, high):
    """Kolmogorov distance between values and a uniform distribution, times sqrt(n): over 2 once in 1500."""
    ordered = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(ordered - steps[1:]).max(), np.abs(ordered - steps[:-1]).max())
    return distance * math.sqrt(len(ordered))


def assert_probability(hits, expected):
    """Within 4.5 standard deviations."""
    hits = np.asarray(hits, bool)
    assert abs(hits.mean() - expected) < 4.5 * math.sqrt(expected * (1 - expected) / len(hits))


def assert_uniform(values, low, high):
    values = np.asarray(values)
    margin = 0.01 * (high - low)  # missed by 1000 values once in 10^4
    assert low <= values.min() < low + margin and high - margin < values.max() <= high
    assert uniform_error(values, low, high) < 2


def rectangles(height, width, boxes):
    """Masks of axis-parallel rectangles with integer boxes."""
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    return masks


def extents(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


# The evaluation transform


@pytest.mark.parametrize("name, size, transform",
                         [("yolact_resnet50", 550, RESNET), ("yolact_darknet53", 550, DARKNET),
                          ("yolact_im400", 400, RESNET)])
def test_base_transform_equals_both_of_the_original(name, size, transform):
    golden = np.load(GOLDENS / "transforms.npz")
    image = cv2.imread(str(GOLDENS / "input_transform.png"))
    ours = base_transform(image, size, transform, MEANS, STD)
    assert ours.shape == (3, size, size) and ours.dtype == np.float32
    hwc = ours.transpose(1, 2, 0).ravel()[golden[f"{name}/base_hwc/idx"]]
    np.testing.assert_allclose(hwc, golden[f"{name}/base_hwc/val"], atol=1e-5)
    nchw = ours.ravel()[golden[f"{name}/fast_nchw/idx"]]
    np.testing.assert_allclose(nchw, golden[f"{name}/fast_nchw/val"], atol=3e-5)
    stats = [ours.mean(dtype=np.float64), ours.std(dtype=np.float64), np.abs(ours).max()]
    np.testing.assert_allclose(stats, golden[f"{name}/fast_nchw/stats"], rtol=1e-4)


def test_base_transform_subtracts_means_and_keeps_bgr():
    image = np.zeros((2, 2, 3), np.uint8)
    image[...] = (10, 20, 30)
    transform = {"channel_order": "BGR", "normalize": False, "subtract_means": True, "to_float": False}
    out = base_transform(image, 4, transform, (1, 2, 3), (9, 9, 9))
    np.testing.assert_array_equal(out[:, 0, 0], [9, 18, 27])


def test_base_transform_of_a_data_set_keeps_masks_and_makes_boxes_relative():
    image, masks = np.zeros((20, 40, 3), np.uint8), rectangles(20, 40, [(4, 5, 20, 15)])
    boxes = np.array([[4.0, 5, 20, 15]])
    transform = BaseTransform(32, RESNET, MEANS, STD)
    _, out_masks, out_boxes, labels = transform(None, image, masks, boxes, np.array([3]))
    np.testing.assert_array_equal(out_masks, masks)
    np.testing.assert_allclose(out_boxes, [[0.1, 0.25, 0.5, 0.75]])
    assert out_boxes.dtype == np.float32 and labels.tolist() == [3]


# What is drawn


def test_photometric_ranges_and_probabilities():
    rng = np.random.RandomState(1)
    drawn = [draws.draw_photometric(rng) for _ in range(DRAWS)]
    for name, low, high in (("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5),
                            ("hue", -18, 18)):
        values = [getattr(draw, name) for draw in drawn]
        assert_probability([value is not None for value in values], 0.5)
        assert_uniform([value for value in values if value is not None], low, high)
    assert_probability([draw.contrast_first for draw in drawn], 0.5)
    assert_probability([draw.contrast is not None for draw in drawn if not draw.contrast_first], 0.5)


def test_expand_ranges_and_probabilities():
    rng, height, width = np.random.RandomState(2), 300, 500
    drawn = [draws.draw_expand(rng, height, width) for _ in range(DRAWS)]
    expanded = [p for p in drawn if (p.height, p.width) != (height, width)]
    assert_probability([(p.height, p.width) != (height, width) for p in drawn], 0.5)
    assert_uniform([p.width / width for p in expanded], 1, 4)
    assert all(abs(p.width / width - p.height / height) < 1 / height for p in expanded)
    for placed in ([(p.left, p.width - width) for p in expanded],
                   [(p.top, p.height - height) for p in expanded]):
        assert all(0 <= corner <= slack for corner, slack in placed)
        assert_uniform([corner / slack for corner, slack in placed if slack > 50], 0, 1)


def test_crop_ranges_and_probabilities():
    """A box in the middle and a large picture, so that only the aspect ratio and the centre reject."""
    rng, height, width = np.random.RandomState(3), 4000, 6000
    boxes, labels = np.array([[0.0, 0, width, height]]), np.array([0])
    drawn = [draws.draw_crop(rng, height, width, boxes, labels) for _ in range(DRAWS)]
    assert_probability([crop is None for crop in drawn], 1 / 6)
    crops = np.array([crop[0] for crop in drawn if crop is not None])
    widths, heights = crops[:, 2] - crops[:, 0], crops[:, 3] - crops[:, 1]
    assert widths.min() >= 0.3 * width - 1 and widths.max() <= width
    assert heights.min() >= 0.3 * height - 1 and heights.max() <= height
    ratio = heights / widths
    assert 0.499 < ratio.min() < 0.52 and 1.9 < ratio.max() < 2.001
    assert crops.min() >= 0 and (crops[:, 2] <= width).all() and (crops[:, 3] <= height).all()
    assert ((crops[:, 0] < width / 2) & (width / 2 < crops[:, 2])).all()


def test_crop_equals_rejection_sampling_of_the_original():
    """Distribution of the corner and size against a plain simulation with another generator."""
    height, width, wanted = 400, 600, 4000
    boxes, labels = np.array([[100.0, 250, 160, 330]]), np.array([4])
    rng = np.random.RandomState(4)
    ours = []
    while len(ours) < wanted:
        crop = draws.draw_crop(rng, height, width, boxes, labels)
        if crop is not None:
            ours.append(crop[0])
    other = np.random.default_rng(5)
    w, h = other.uniform(0.3 * width, width, 10**5), other.uniform(0.3 * height, height, 10**5)
    left, top = other.uniform(0, 1, 10**5) * (width - w), other.uniform(0, 1, 10**5) * (height - h)
    has_aspect = (h / w >= 0.5) & (h / w <= 2)
    accepted = has_aspect & (left < 130) & (left + w > 130) & (top < 290) & (top + h > 290)
    theirs = np.stack([left, top, left + w, top + h], axis=1)[accepted]
    for ours_column, their_column in zip(np.array(ours).T, theirs.T):
        levels = np.quantile(their_column, np.linspace(0.05, 0.95, 19))
        share = (ours_column[:, None] < levels).mean(0)
        assert np.abs(share - np.linspace(0.05, 0.95, 19)).max() < 0.04


@pytest.mark.parametrize("seed, photometric, expand, crop, next_draw", [
    (0, (None, 1.34427, 1.04488, 4.44829, True), (277, 555, 152, 300), (8, 2, 151, 91), 830079),
    (1, (31.81983, None, 0.62813, -12.71679, False), (100, 200, 0, 0), (6, 4, 120, 81), 336125),
    (3, (None, None, 1.33995, None, False), (121, 242, 2, 35), (17, 1, 146, 95), 142751),
    (4, (None, 1.10904, 0.67270, None, False), (370, 740, 231, 93), (11, 8, 102, 87), 417668),
])
def test_order_and_number_of_the_draws_stay(seed, photometric, expand, crop, next_draw):
    """Recorded of draws that gave the original's samples, which only the test with COCO pictures compares."""
    drawn = draws.draw_photometric(np.random.RandomState(seed))
    for value, expected in zip(vars(drawn).values(), photometric):
        assert value == (expected if expected is None else pytest.approx(expected, abs=1e-5))
    assert tuple(vars(draws.draw_expand(np.random.RandomState(seed), 100, 200)).values())[:4] == expand
    labels = np.array([0])
    box, _ = draws.draw_crop(np.random.RandomState(seed), 100, 200, np.array([[20.0, 30, 60, 80]]), labels)
    assert box == crop
    rng = np.random.RandomState(seed)  # no crop holds a centre outside the picture, so that all tries are made
    assert draws.draw_crop(rng, 100, 200, np.array([[-50.0, -50, -30, -30]]), labels) is None
    assert rng.randint(10 ** 6) == next_draw


def test_crop_never_rejects_by_overlap():
    """A box with an IoU under 0.01 with any crop, in modes that ask for 0.9: cropped, as in the original."""
    height, width = 300, 300
    boxes, labels = np.array([[149.0, 149, 151, 151]]), np.array([0])
    rng = np.random.RandomState(6)
    results = [draws.draw_crop(rng, height, width, boxes, labels) for _ in range(600)]
    assert_probability([crop is None for crop in results], 1 / 6)
    assert all(crop[1].tolist() == [True] for crop in results if crop is not None)


def test_crop_keeps_objects_by_their_centre_and_needs_one_that_is_no_crowd():
    boxes = np.array([[10.0, 10, 30, 30], [250, 250, 290, 290], [0, 0, 300, 300]])
    labels = np.array([1, 2, -1])
    rng = np.random.RandomState(7)
    seen = set()
    for _ in range(400):
        crop = draws.draw_crop(rng, 300, 300, boxes, labels)
        if crop is None:
            continue
        (x1, y1, x2, y2), kept = crop
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers > (x1, y1)) & (centers < (x2, y2))).all(1)
        assert kept.tolist() == inside.tolist() and kept[:2].any()
        seen.add(tuple(kept.tolist()))
    assert (True, False, False) in seen and (False, True, True) in seen
    only_crowd = draws.draw_crop(np.random.RandomState(8), 300, 300, boxes[2:], labels[2:])
    nothing = draws.draw_crop(np.random.RandomState(8), 300, 300, boxes[:0], labels[:0])
    assert only_crowd is None and nothing is None


def test_mirror_flip_and_turns_have_their_probabilities_and_switches():
    rng = np.random.RandomState(9)
    every = SSDAugmentation(32, RESNET, MEANS, STD, random_flip=True, random_rot90=True)
    arguments = (100, 100, np.array([[10.0, 10, 90, 90]]), np.array([0]))
    placements = [every.draw(rng, *arguments)[1] for _ in range(3000)]
    assert_probability([p.mirror for p in placements], 0.5)
    assert_probability([p.flip for p in placements], 0.5)
    for turns in range(4):
        assert_probability([p.quarter_turns == turns for p in placements], 0.25)
    none = SSDAugmentation(32, RESNET, MEANS, STD, False, False, False, False)
    state = rng.get_state()[1].copy()
    photometric, placement, kept = none.draw(rng, *arguments)
    assert (photometric, placement) == (draws.Photometric(), draws.Placement(100, 100))
    assert kept.tolist() == [0]
    np.testing.assert_array_equal(rng.get_state()[1], state)


# What is done with it


def test_distort_follows_its_definition():
    image = np.random.RandomState(0).randint(0, 256, (8, 9, 3)).astype(np.float32)
    np.testing.assert_allclose(distort(image.copy(), draws.Photometric(brightness=30.0)), image + 30)
    np.testing.assert_allclose(distort(image.copy(), draws.Photometric(contrast=1.4)), image * 1.4, rtol=1e-6)
    both = draws.Photometric(brightness=20.0, contrast=0.5)
    np.testing.assert_allclose(distort(image.copy(), both), (image + 20) * 0.5, rtol=1e-6)
    # Saturation moves every channel away from the largest one by the factor; the largest stays.
    largest = image.max(2, keepdims=True)
    more = distort(image.copy(), draws.Photometric(saturation=1.3))
    np.testing.assert_allclose(more, largest - 1.3 * (largest - image), atol=0.01)
    # Hue wraps at 0 and 360 degrees; the picture is wide, as OpenCV treats long rows by another code.
    colours = np.array([[[0, 0, 200], [100 / 3, 0, 200]]], np.float32)  # 0 and 350 degrees
    colours = np.tile(colours, (4, 64, 1))
    below, above = (distort(colours.copy(), draws.Photometric(hue=hue)) for hue in (-15.0, 18.0))
    np.testing.assert_allclose(below[:, 0::2], np.tile([50.0, 0, 200], (4, 64, 1)), atol=0.01)
    np.testing.assert_allclose(above[:, 1::2], np.tile([0, 80 / 3, 200], (4, 64, 1)), atol=0.01)


@pytest.mark.parametrize("hue, added", [(350, 18), (10, -18), (359, 1), (200, 5)])
def test_hues_go_round_in_rows_of_any_length(hue, added):
    """OpenCV's way back from HSV is wrong below 0 degrees where it computes several pixels at once."""
    def picture(degrees):
        return cv2.cvtColor(np.full((2, 67, 3), (degrees, 0.5, 200), np.float32), cv2.COLOR_HSV2BGR)

    distorted = distort(picture(hue), draws.Photometric(hue=added))
    np.testing.assert_allclose(distorted, picture((hue + added) % 360), atol=1e-2)


def test_distort_does_not_clip_and_keeps_the_way_through_hsv_of_dark_values():
    bright = distort(np.full((1, 1, 3), 250, np.float32), draws.Photometric(brightness=32.0, contrast=1.5))
    np.testing.assert_allclose(bright, 423)
    # Grey level -10 has value -10 in HSV; a channel below it comes back above it, in the original too.
    dark = np.array([[[0, 10, 10]]], np.float32)
    out = distort(dark.copy(), draws.Photometric(brightness=-20.0))
    through = cv2.cvtColor(cv2.cvtColor(dark - 20, cv2.COLOR_BGR2HSV), cv2.COLOR_HSV2BGR)
    np.testing.assert_allclose(out, through)
    assert np.abs(out - (dark - 20)).max() > 5


@pytest.mark.parametrize("contrast_first", [True, False])
def test_skipping_hsv_changes_nothing_for_positive_values(contrast_first):
    image = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.float32)
    draw = draws.Photometric(brightness=12.0, contrast=0.7, contrast_first=contrast_first)
    through = cv2.cvtColor(cv2.cvtColor((image + 12) * 0.7, cv2.COLOR_BGR2HSV), cv2.COLOR_HSV2BGR)
    np.testing.assert_allclose(distort(image.copy(), draw), through, atol=2e-3)


def test_expanded_canvas_is_filled_with_the_mean():
    augmentation = SSDAugmentation(64, RESNET, MEANS, STD, photometric_distort=False,
                                   random_sample_crop=False)
    image = np.full((40, 40, 3), 255, np.uint8)
    boxes, labels = np.array([[0.0, 0, 40, 40]]), np.array([0])
    masks = rectangles(40, 40, [(0, 0, 40, 40)])
    white = (255 - np.array(MEANS[::-1])) / np.array(STD[::-1])
    outside_share = []
    for seed in range(20):
        out, out_masks, _, _ = augmentation(np.random.RandomState(seed), image, masks, boxes, labels)
        inside = cv2.erode(out_masks[0], np.ones((5, 5)), borderValue=1).astype(bool)
        outside = ~cv2.dilate(out_masks[0], np.ones((5, 5)), borderValue=0).astype(bool)
        assert np.abs(out[:, outside]).max(initial=0) < 1e-6
        np.testing.assert_allclose(out[:, inside], np.repeat(white[:, None], inside.sum(), 1), rtol=1e-4)
        outside_share.append(outside.mean())
    assert min(outside_share) == 0 and max(outside_share) > 0.7


@pytest.mark.parametrize("switches", [{}, {"random_flip": True, "random_rot90": True}])
def test_boxes_equal_mask_extents_afterwards(switches):
    """Rectangles of all sizes: after every step the box is the mask's extent, to a pixel."""
    rng = np.random.RandomState(10)
    augmentation = SSDAugmentation(160, RESNET, MEANS, STD, **switches)
    checked = 0
    for _ in range(250):
        height, width = rng.randint(40, 300, 2)
        x1, y1 = rng.randint(0, width - 20, 4), rng.randint(0, height - 20, 4)
        boxes = np.stack([x1, y1, rng.randint(x1 + 8, width + 1), rng.randint(y1 + 8, height + 1)], axis=1)
        image = np.zeros((height, width, 3), np.uint8)
        masks = rectangles(height, width, boxes)
        _, out_masks, out_boxes, labels = augmentation(rng, image, masks, boxes.astype(float), np.arange(4))
        assert len(out_masks) == len(out_boxes) == len(labels) > 0
        assert out_boxes.min() >= 0 and out_boxes.max() <= 1 and set(np.unique(out_masks)) <= {0, 1}
        for mask, box in zip(out_masks, out_boxes * 160):
            if (box[2:] - box[:2]).min() >= 2:  # a thinner one may vanish between the samples of the resize
                assert np.abs(extents(mask) - box).max() <= 1
                checked += 1
    assert checked > 400


def test_image_masks_and_boxes_move_together():
    """The picture is white where the mask is: it stays so through flips, turns and canvas."""
    rng = np.random.RandomState(11)
    augmentation = SSDAugmentation(120, DARKNET, (0, 0, 0), STD, photometric_distort=False,
                                   random_flip=True, random_rot90=True)
    masks = rectangles(90, 140, [(20, 30, 70, 50)])
    masks[0, 30:60, 20:30] = 1  # an L, so that every turn and mirror image differs
    image = np.repeat(masks[0][:, :, None] * 255, 3, axis=2)
    for _ in range(120):
        out, out_masks, _, _ = augmentation(rng, image, masks, np.array([[20.0, 30, 70, 60]]), np.array([0]))
        assert ((out[0] > 0.5) == out_masks[0].astype(bool)).mean() > 0.995


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("top, left", [(0, 0), (7, -5)])
def test_masks_are_placed_as_a_plain_canvas_would_be(count, top, left):
    height, width = 44, 61
    masks = [(np.random.RandomState(k).rand(height, width) < 0.5).astype(np.uint8) for k in range(count)]
    placement = draws.Placement(50, 52, top, left, mirror=True, quarter_turns=1)
    if not (top or left):
        placement = draws.Placement(height, width, flip=True)
    rows, columns = placement.window(height, width)
    placed = np.full((count, 90, 80), 9, np.uint8)
    place_planes([mask[rows, columns] for mask in masks], (height, width), placement, placed)
    for mask, found in zip(masks, placed):
        canvas = np.zeros((placement.height, placement.width), np.uint8)
        canvas[rows.start + top : rows.stop + top, columns.start + left : columns.stop + left] = mask[rows, columns]
        canvas = canvas[:, ::-1] if placement.mirror else canvas[::-1]
        canvas = np.ascontiguousarray(np.rot90(canvas, placement.quarter_turns))
        np.testing.assert_array_equal(found, cv2.resize(canvas, (80, 90)))


def test_place_boxes_clips_and_turns():
    placement = draws.Placement(50, 80, top=-10, left=5)
    boxes = np.array([[0.0, 20, 90, 30], [10, 0, 20, 70]])
    np.testing.assert_array_equal(place_boxes(boxes, placement), [[5, 10, 80, 20], [15, 0, 25, 50]])
    placement.mirror, placement.quarter_turns = True, 1
    assert placement.turned_size() == (80, 50)
    np.testing.assert_array_equal(place_boxes(boxes, placement), [[10, 5, 20, 80], [0, 15, 50, 25]])


def test_boxes_under_a_pixel_are_dropped_with_their_masks_and_labels():
    augmentation = SSDAugmentation(50, RESNET, MEANS, STD, False, False, False, False)
    boxes = np.array([[0.0, 0, 100, 100], [10, 10, 90, 11], [10, 10, 11.5, 90], [40, 40, 44, 44]])
    masks = rectangles(100, 100, np.ceil(boxes).astype(int))
    arguments = (None, np.zeros((100, 100, 3), np.uint8), masks, boxes, np.array([5, 6, 7, -1]))
    _, out_masks, out_boxes, labels = augmentation(*arguments)
    assert labels.tolist() == [5, -1] and out_masks.shape == (2, 50, 50)
    np.testing.assert_allclose(out_boxes[1], [0.4, 0.4, 0.44, 0.44], rtol=1e-6)
    larger = SSDAugmentation(50, RESNET, MEANS, STD, False, False, False, False, discard_box_width=5)
    assert larger(*arguments)[3].tolist() == [5]


def test_same_seed_same_sample_and_inputs_untouched():
    rng = np.random.RandomState(12)
    image = rng.randint(0, 256, (60, 70, 3)).astype(np.uint8)
    masks, boxes, labels = rectangles(60, 70, [(5, 5, 50, 40)]), np.array([[5.0, 5, 50, 40]]), np.array([2])
    copies = [array.copy() for array in (image, masks, boxes, labels)]
    augmentation = SSDAugmentation(48, RESNET, MEANS, STD)
    first, again, other = (augmentation(np.random.RandomState(seed), image, masks, boxes, labels)
                           for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])
    assert all(np.array_equal(a, b) for a, b in zip(copies, (image, masks, boxes, labels)))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (300, 1), (3, 10000)])
def test_extreme_pictures(height, width):
    image = np.full((height, width, 3), 7, np.uint8)
    boxes = np.array([[0.0, 0, width, height]])
    masks, labels = rectangles(height, width, [(0, 0, width, height)]), np.array([0])
    augmentation = SSDAugmentation(64, RESNET, MEANS, STD, random_flip=True, random_rot90=True)
    for seed in range(12):
        out, out_masks, out_boxes, _ = augmentation(np.random.RandomState(seed), image, masks, boxes, labels)
        assert out.shape == (3, 64, 64) and np.isfinite(out).all() and len(out_masks) == len(out_boxes)
    empty = augmentation(np.random.RandomState(0), image, [], np.zeros((0, 4)), np.zeros(0, np.int64))
    assert empty[1].shape == (0, 64, 64) and empty[2].shape == (0, 4)
    assert base_transform(image, 64, RESNET, MEANS, STD).shape == (3, 64, 64)


def test_build_augmentation_reads_the_config():
    changes = {"max_size": 96, "augment_expand": False, "augment_random_rot90": True}
    cfg = get_config("yolact_base").copy(changes)
    training = build_augmentation(cfg, MEANS, STD, training=True)
    assert isinstance(training, SSDAugmentation) and training.max_size == 96
    assert (training.photometric_distort, training.expand) == (True, False)
    assert training.random_sample_crop
    assert (training.random_mirror, training.random_flip, training.random_rot90) == (True, False, True)
    evaluation = build_augmentation(cfg, MEANS, STD, training=False)
    assert isinstance(evaluation, BaseTransform) and evaluation.max_size == 96


def test_augmentation_equals_the_original_seed_by_seed(coco_tiny, goldens_dir):
    """The original's samples of eight COCO pictures: image, boxes, labels and mask areas."""
    golden = np.load(goldens_dir / "augment.npz")
    augmentation = build_augmentation(get_config("yolact_base"), MEANS, STD, training=True)
    info = coco_tiny / "annotations" / "instances_train2017.json"
    dataset = COCODetection(str(coco_tiny / "train2017"), str(info), augmentation, COCO_CLASSES,
                            COCO_LABEL_MAP, training=True)
    for k in range(8):
        index = dataset.ids.index(int(golden[f"{k}/image_id"]))
        sample = dataset.sample(index, np.random.RandomState(int(golden[f"{k}/np_seed"])))
        target = golden[f"{k}/target"]
        np.testing.assert_allclose(sample.boxes, target[:, :4], atol=1e-6)
        np.testing.assert_array_equal(sample.labels, target[:, 4])
        np.testing.assert_array_equal(sample.masks.sum((1, 2), dtype=np.int64), golden[f"{k}/mask_area"])
        assert [sample.height, sample.width, sample.num_crowds] == golden[f"{k}/hw_crowd"][[0, 1, 2]].tolist()
        values = sample.image.ravel()[golden[f"{k}/img_chw/idx"]]
        np.testing.assert_allclose(values, golden[f"{k}/img_chw/val"], atol=1e-4)
