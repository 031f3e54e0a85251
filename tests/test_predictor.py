"""utils/predictor.py: which objects are given, with which scores, re-scored or not, alone or in a batch."""
import cv2
import numpy as np
import paddle
import pytest
from cli_runs import TINY
from PIL import Image

from data.config import get_config
from data.images import DatasetError
from utils.predictor import Predictor
from yolact import Yolact

MASK_IOU = ["use_maskiou=True", "rescore_mask=True", "maskiou_net=[(8, 3, {'stride': 2})]"]
KINDS = {"plain": [], "re-scoring": MASK_IOU, "no masks": [*MASK_IOU, "eval_mask_branch=False"]}
FOUND = 30  # random weights find as many objects as they may


def make_net(kind):
    """(network, config) of random weights; estimates of the masks' IoU are on both sides of 1, and none is 0."""
    config = get_config("yolact_demo")
    config = config.copy(config.parse_overrides([*TINY, "nms_conf_thresh=0.", f"max_num_detections={FOUND}",
                                                 *KINDS[kind]]))
    paddle.seed(1)
    net = Yolact(config)
    net.eval()
    if net.maskiou_net is not None:
        for parameter in net.maskiou_net.parameters():
            parameter.set_value(paddle.abs(parameter))
    return net, config


@pytest.fixture(scope="module")
def nets():
    return {kind: make_net(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def rescoring(nets):
    """A network whose re-scored masks are in another order than its boxes."""
    return nets["re-scoring"]


def picture(height=40, width=56, seed=0):
    return np.random.RandomState(seed).randint(0, 256, [height, width, 3]).astype("uint8")


@pytest.fixture(scope="module")
def everything(rescoring):
    """All objects, with the scores of their boxes and of their masks, by falling score of the box."""
    found = Predictor(*rescoring).detect(picture())
    assert len(found) == FOUND and found.masks.any(axis=(1, 2)).sum() > 5 and (np.diff(found.scores) <= 0).all()
    return found


def by_mask_score(found):
    return (-found.mask_scores).argsort(kind="stable")


def assert_same(found, expected, scores=None):
    """The same objects in the same order, of these scores; another number of them in a batch may round differently."""
    assert (found.height, found.width) == (expected.height, expected.width)
    np.testing.assert_array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1)
    np.testing.assert_allclose(found.scores, expected.scores if scores is None else scores, rtol=1e-4)
    np.testing.assert_allclose(found.mask_scores, expected.mask_scores, rtol=1e-4)
    assert found.has_masks == expected.has_masks
    if found.has_masks:
        assert found.masks.shape == expected.masks.shape == (len(found), found.height, found.width)
        assert (found.masks != expected.masks).mean(axis=(1, 2)).max(initial=0) < 0.005


# --- re-scored masks --------------------------------------------------------------------------------------------

def test_without_one_score_boxes_and_masks_have_their_own(rescoring, everything):
    """The boxes those of a network that never re-scores."""
    net, config = rescoring
    boxes_alone = Predictor(net, config.copy({"rescore_mask": False})).detect(picture())
    np.testing.assert_array_equal(boxes_alone.mask_scores, boxes_alone.scores)
    np.testing.assert_allclose(everything.scores, boxes_alone.scores, rtol=1e-6)
    ratio = everything.mask_scores / everything.scores
    assert (ratio > 0).all() and (ratio < 0.95).any() and (ratio > 1.05).any()


@pytest.mark.parametrize("one_score, rescore_bbox", [(True, False), (False, True), (True, True)])
def test_boxes_are_re_scored_for_one_score_and_by_the_config(one_score, rescore_bbox, rescoring, everything):
    net, config = rescoring
    found = Predictor(net, config.copy({"rescore_bbox": rescore_bbox}), one_score=one_score).detect(picture())
    order = by_mask_score(everything)
    assert order.tolist() != sorted(order)
    np.testing.assert_array_equal(found.scores, found.mask_scores)
    assert_same(found, everything[order], everything.mask_scores[order])


@pytest.mark.parametrize("top_k", [2, 5])
def test_one_score_takes_the_best_after_re_scoring(top_k, rescoring, everything):
    order = by_mask_score(everything)[:top_k]
    assert order.max() >= top_k, "not all of the best masks may be among the best boxes"
    found = Predictor(*rescoring, one_score=True, top_k=top_k).detect(picture())
    assert_same(found, everything[order], everything.mask_scores[order])


@pytest.mark.parametrize("top_k", [None, 2])
def test_one_score_has_to_pass_the_threshold_before_and_after(top_k, rescoring, everything):
    threshold = float(np.median(everything.scores))
    before, after = everything.scores > threshold, everything.mask_scores > threshold
    assert (before & ~after).any() and (after & ~before).any()
    passed = everything[before & after]
    order = by_mask_score(passed)[:top_k]
    assert len(order) >= 2
    found = Predictor(*rescoring, one_score=True, score_threshold=threshold, top_k=top_k).detect(picture())
    assert_same(found, passed[order], passed.mask_scores[order])


# --- scores of the boxes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, one_score", [("plain", False), ("plain", True), ("re-scoring", False),
                                             ("no masks", True)])
def test_the_best_by_the_scores_of_the_boxes(kind, one_score, nets):
    """Where boxes are not re-scored: cut by number, by score, by both, and down to none."""
    found = Predictor(*nets[kind]).detect(picture())
    assert len(found) == FOUND and len(np.unique(found.scores)) > 10 and found.has_masks == (kind != "no masks")
    threshold = float(found.scores[6])
    above = int((found.scores > threshold).sum())
    assert above > 4
    for options, count in [({"top_k": 4}, 4), ({"top_k": 2 * FOUND}, FOUND), ({"score_threshold": threshold}, above),
                           ({"score_threshold": threshold, "top_k": 4}, 4), ({"score_threshold": 0.99}, 0),
                           ({"score_threshold": threshold, "top_k": FOUND}, above)]:
        some = Predictor(*nets[kind], one_score=one_score, **options).detect(picture())
        assert len(some) == count
        assert_same(some, found[:count])


# --- pictures ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_pictures_give_alone(kind, nets):
    predictor = Predictor(*nets[kind], one_score=True, top_k=10)
    pictures = [picture(40, 56, 0), picture(70, 30, 1)]
    together = predictor.detect_prepared([predictor.transform(image) for image in pictures],
                                         [image.shape[:2] for image in pictures])
    alone = [predictor.detect(image) for image in pictures]
    assert len(together) == 2 and not np.array_equal(alone[0].boxes, alone[1].boxes)
    for found, expected in zip(together, alone):
        assert_same(found, expected)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_path_gives_what_its_picture_gives(suffix, nets, tmp_path):
    """Turned upright, as cv2.imread turns it."""
    path = tmp_path / f"picture{suffix}"
    tags = Image.Exif()
    tags[0x0112] = 6  # orientation: a quarter turn
    Image.fromarray(picture()).save(path, exif=tags if suffix == ".jpg" else None)
    predictor = Predictor(*nets["plain"])
    expected = predictor.detect(cv2.imread(str(path)))
    assert (expected.height, expected.width) == ((56, 40) if suffix == ".jpg" else (40, 56))
    assert_same(predictor.detect(path), expected)
    assert_same(predictor.detect(str(path)), expected)


def test_what_is_no_picture_is_refused(nets, tmp_path):
    predictor = Predictor(*nets["plain"])
    for array in (picture()[:, :, 0], picture()[:, :, :2], picture().astype("float32"), picture()[:0]):
        with pytest.raises(ValueError, match="BGR, not"):
            predictor.detect(array)
    with pytest.raises(DatasetError, match="nowhere"):
        predictor.detect(tmp_path / "nowhere.png")


@pytest.mark.parametrize("one_score", [False, True])
def test_rows_tell_which_detection_an_object_is(one_score, rescoring):
    """For the figure of prototypes: the coefficients of the row make the object's mask."""
    predictor = Predictor(*rescoring, one_score=one_score, top_k=5)
    image = picture()
    [detection] = predictor.detections_of(predictor.network(predictor.transform(image)[None]))
    found, rows = predictor.instances_and_rows(detection, *image.shape[:2])
    np.testing.assert_array_equal(found.classes, detection["class"].numpy()[rows])
    if one_score:
        assert rows.tolist() != list(range(5))
    else:
        np.testing.assert_array_equal(found.scores, detection["score"].numpy()[rows])
    first = slice(int(rows[0]), int(rows[0]) + 1)
    one = {**detection, **{key: detection[key][first] for key in ("box", "class", "score", "mask")}}
    np.testing.assert_array_equal(predictor.instances(one, *image.shape[:2]).masks[0], found.masks[0])
