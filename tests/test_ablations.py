"""Options that the published networks leave off: each equals its formula in numpy and works in a whole network."""
import contextlib
import io
import json
from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import pytest
from cli_runs import assert_refused, copy_data, edit_info, places, records, run, stem_of, train_arguments
from paddle import nn
from pycocotools import mask as rle

from backbone import build_backbone
from data.coco import COCODetection, Sample, collate, fitted
from data.config import MEANS, STD, get_config
from data.config_types import DELAYED_KEYS, ConfigError
from layers import ablation_losses, losses
from layers.detection import CLASS_SCORES, Detect
from layers.heads import initial_conf_bias
from layers.mask_iou_net import FastMaskIoUNet
from layers.matching import match
from layers.multibox_loss import FOCAL_LOSSES, MultiBoxLoss, criteria
from layers.output_utils import Detections, PictureMasks, postprocess
from layers.protonet import ProtoNet
from utils.augmentations import SSDAugmentation, base_transform, build_augmentation, input_size
from utils.predictor import Predictor
from yolact import Yolact, build_detect

TINY = {"max_size": 48, "fpn": {"num_features": 16}, "backbone": {"args": ([1, 1, 1], None, 1, 8)},
        "extra_head_net": [(16, 3, {"padding": 1})], "nms_conf_thresh": 0.0,
        "mask_proto_net": [(16, 3, {"padding": 1}), (None, -2, {}), (8, 1, {})]}
FOCAL = {"focal": {"use_focal_loss": True},
         "sigmoid": {"use_focal_loss": True, "use_sigmoid_focal_loss": True},
         "objectness": {"use_focal_loss": True, "use_objectness_score": True}}
MASK_IOU = {"use_maskiou": True, "rescore_mask": True, "maskiou_net": [(8, 3, {"stride": 2}), (16, 3, {"stride": 2})]}


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


# --- focal losses -------------------------------------------------------------------------------------------

ALPHA, GAMMA = 0.3, 1.7


def focal(p, alpha):
    """-alpha (1 - p)^gamma log p, Lin et al. 2017, eq. 5."""
    return -alpha * (1 - p) ** GAMMA * np.log(p)


def plain_softmax_focal(logits, label):
    return focal(softmax(logits)[label], ALPHA if label > 0 else 1 - ALPHA)


def plain_sigmoid_focal(logits, label):
    """Each class is a question of its own; the first logit answers none."""
    p = sigmoid(logits)
    return sum(focal(p[c], ALPHA) if c == label else focal(1 - p[c], 1 - ALPHA) for c in range(1, len(logits)))


def plain_objectness_focal(logits, label):
    p = sigmoid(logits[0])
    if label == 0:
        return focal(1 - p, 1 - ALPHA)
    return focal(p, ALPHA) - np.log(softmax(logits[1:])[label - 1])


PLAIN_FOCAL = {"focal": plain_softmax_focal, "sigmoid": plain_sigmoid_focal, "objectness": plain_objectness_focal}


@pytest.mark.parametrize("has_positives", [True, False])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_focal_losses_are_their_formulas(mode, has_positives):
    random = np.random.RandomState(0)
    conf, target = 3 * random.standard_normal([2, 40, 5]), random.randint(-1, 5, [2, 40])
    if not has_positives:
        target = target.clip(max=0)
    expected = sum(PLAIN_FOCAL[mode](logits, label) for logits, label in zip(conf.reshape(-1, 5), target.ravel())
                   if label >= 0)
    ours = FOCAL_LOSSES[mode](*tensors(conf, target), alpha=ALPHA, gamma=GAMMA).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_neutral_priors_and_unused_logits_do_not_count(mode):
    random = np.random.RandomState(1)
    conf, target = random.standard_normal([1, 12, 4]), np.arange(12).reshape(1, 12) % 5 - 1
    [conf, target] = tensors(conf, target)
    conf.stop_gradient = False
    FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=GAMMA).backward()
    gradient = conf.grad.numpy()[0]
    neutral = target.numpy()[0] < 0
    assert neutral.any() and not gradient[neutral].any() and gradient[~neutral].any(axis=1).all()
    assert gradient[:, 0].any() == (mode != "sigmoid")


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_focal_losses_of_extreme_logits(mode):
    """Finite and not cut off: a confident mistake costs as much as it is wrong by, and being right nothing."""
    conf = np.array([[[60, -60, -60], [-60, 60, -60], [60, -60, -60], [-60, 60, -60], [0, 0, 0]]], "float64")
    target = np.array([[1, 0, 0, 1, -1]])
    [conf, target] = tensors(conf, target)
    conf.stop_gradient = False
    loss = FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=GAMMA)
    loss.backward()
    assert np.isfinite(conf.grad.numpy()).all()
    expected = {"focal": 120,  # the first two priors, an object and background, which share alpha as 1
                "sigmoid": 60,  # the same ones, of which one class each is wrong
                "objectness": 60 + np.log(2)}[mode]  # the next two; the first object's classes are equally likely
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_gradients_of_focal_losses_are_finite_where_the_network_is_certain(mode, gamma):
    """With a probability of 1 in single precision, and with every gamma of the paper's tables."""
    [conf, target] = tensors(np.array([[[30.0, -30, -30], [-30, 30, -30]]]), np.array([[0, 1]]))
    conf.stop_gradient = False
    FOCAL_LOSSES[mode](conf, target, alpha=ALPHA, gamma=gamma).backward()
    other = -conf.detach()  # for the objectness an object is where the first logit is high
    other.stop_gradient = False
    FOCAL_LOSSES[mode](other, target, alpha=ALPHA, gamma=gamma).backward()
    assert np.isfinite(conf.grad.numpy()).all() and np.isfinite(other.grad.numpy()).all()


@pytest.mark.parametrize("num_classes", [2, 4, 81])
@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_a_new_network_s_share_of_foreground(mode, num_classes):
    """For every prior of a cell, not the first alone."""
    bias = initial_conf_bias(3 * num_classes, num_classes, mode, 0.01)
    assert bias.dtype == "float32"
    logits = bias.reshape(3, num_classes).astype("float64")
    if mode == "focal":
        np.testing.assert_allclose(1 - softmax(logits)[:, 0], 0.01, rtol=1e-5)
    else:
        asked = logits[:, 1:] if mode == "sigmoid" else logits[:, :1]
        np.testing.assert_allclose(sigmoid(asked), 0.01, rtol=1e-5)


@pytest.mark.parametrize("mode", FOCAL_LOSSES)
def test_the_network_starts_with_that_share(mode):
    config = tiny(focal_loss_init_pi=0.2, **FOCAL[mode])
    assert config.conf_mode == mode
    bias = Yolact(config).prediction_layers[0].conf_layer.bias.numpy()
    np.testing.assert_array_equal(bias, initial_conf_bias(len(bias), 4, mode, 0.2))
    assert bias.any() and not Yolact(tiny()).prediction_layers[0].conf_layer.bias.numpy().any()


# --- class existence, diversity -----------------------------------------------------------------------------

def test_class_existence_is_cross_entropy_of_the_classes_in_the_picture():
    """Also of a class that is there twice, and of a picture without objects."""
    logits = np.random.RandomState(0).standard_normal([3, 4])
    labels = [np.array([2, 0, 2]), np.zeros(0, "int64"), np.array([3])]
    expected = 0.0
    for picture, present in zip(sigmoid(logits), labels):
        for c, p in enumerate(picture):
            expected -= np.log(p if c in present else 1 - p)
    ours = ablation_losses.class_existence_loss(*tensors(logits), tensors(*labels)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def plain_diversity(coeffs, index):
    total = 0.0
    for i, first in enumerate(coeffs):
        for j, second in enumerate(coeffs):
            similarity = (first @ second / np.linalg.norm(first) / np.linalg.norm(second) + 1) / 2
            total += 1 - similarity if index[i] == index[j] else similarity
    return total / len(coeffs)


def test_diversity_compares_all_pairs_of_coefficients():
    coeffs, index = np.random.RandomState(0).standard_normal([7, 4]), np.array([0, 1, 0, 2, 2, 2, 0])
    ours = ablation_losses.coeff_diversity_loss(*tensors(coeffs, index)).item()
    np.testing.assert_allclose(ours, plain_diversity(coeffs, index), rtol=1e-5)


def test_diversity_is_least_where_objects_point_in_opposite_directions():
    coeffs, index = np.array([[1.0, 2], [3, 6], [-1, -2]]), np.array([0, 0, 1])
    assert abs(ablation_losses.coeff_diversity_loss(*tensors(coeffs, index)).item()) < 1e-6
    assert abs(ablation_losses.coeff_diversity_loss(*tensors(coeffs, 1 - index)).item()) < 1e-6
    worst = ablation_losses.coeff_diversity_loss(*tensors(coeffs, np.array([0, 1, 0]))).item()
    np.testing.assert_allclose(worst, 4 / 3, rtol=1e-6)  # the first prior's pairs with both others cost 1


# --- direct masks -------------------------------------------------------------------------------------------

def plain_pooled_crop(mask, box, side):
    """PyTorch's adaptive average pooling of the box: cell i covers floor(i L / S) to ceil((i + 1) L / S)."""
    height, width = mask.shape
    x1, x2 = int(min(box[0], box[2]) * width), int(max(box[0], box[2]) * width)
    y1, y2 = int(min(box[1], box[3]) * height), int(max(box[1], box[3]) * height)
    pooled = np.zeros([side, side])
    for i in range(side):
        top, bottom = y1 + i * (y2 - y1) // side, y1 + int(np.ceil((i + 1) * (y2 - y1) / side))
        for j in range(side):
            left, right = x1 + j * (x2 - x1) // side, x1 + int(np.ceil((j + 1) * (x2 - x1) / side))
            if bottom > top and right > left:
                pooled[i, j] = mask[top:bottom, left:right].mean()
    return pooled


def masks_and_boxes():
    """(masks uint8 [3, 32, 64], boxes [n, 4], index [n]); the sides are powers of two, so that products are exact."""
    random = np.random.RandomState(0)
    masks = (random.rand(3, 32, 64) < 0.6).astype("uint8")
    boxes = np.sort(random.randint(0, 65, [12, 2, 2]) / 64, axis=1).reshape(-1, 4)
    special = np.array([[0, 0, 1, 1], [5 / 64, 0.25, 6 / 64, 0.75], [0.25, 4 / 32, 0.75, 5 / 32],  # a pixel wide, high
                        [3 / 64, 3 / 32, 4 / 64, 4 / 32],  # one pixel
                        [0.3, 0.2, 0.3, 0.9], [0.5, 0.5, 0.5, 0.5],  # empty
                        [0.101, 0.203, 0.777, 0.888], [0.75, 0.5, 0.25, 0.125]])  # fractions; corners swapped
    boxes = np.concatenate([boxes, special])
    return masks, boxes, random.randint(0, 3, len(boxes))


@pytest.mark.parametrize("side", [1, 4, 7])
def test_pooled_crops_are_adaptive_average_pooling(side):
    masks, boxes, index = masks_and_boxes()
    ours = ablation_losses.pooled_crops(*tensors(masks, index, boxes), side).numpy()
    expected = [plain_pooled_crop(masks[i], box, side) for i, box in zip(index, boxes)]
    assert ours.dtype == "float32"
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_direct_mask_loss_is_cross_entropy_with_the_pooled_object():
    masks, boxes, index = masks_and_boxes()
    boxes[:2] += [[-0.5, 0, 0, 0], [0, 0, 0.75, 0.5]]  # predicted boxes may reach out of the picture
    predicted = np.random.RandomState(1).uniform(0.01, 0.99, [len(boxes), 16])
    expected = 0.0
    for probability, box, i in zip(predicted, boxes, index):
        target = plain_pooled_crop(masks[i], box.clip(0, 1), 4).ravel() > 0.5
        expected -= np.log(np.where(target, probability, 1 - probability)).sum()
    ours = ablation_losses.direct_mask_loss(*tensors(predicted, boxes, masks, index)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


# --- the IoU of masks ---------------------------------------------------------------------------------------

def plain_iou(mask, gt_mask):
    """Of a mask that is binarised at 0.5."""
    union = ((mask > 0.5) | (gt_mask > 0)).sum()
    return ((mask > 0.5) & (gt_mask > 0)).sum() / union if union else 0.0


def test_mask_iou_loss_is_smooth_l1_of_the_iou():
    """With estimates on both sides of the kink, which is 1 away from the IoU."""
    random = np.random.RandomState(0)
    masks, gt_masks = random.rand(6, 7, 8), (random.rand(6, 7, 8) < 0.5).astype("float64")
    masks[:, :, 5], gt_masks[:, :, 5] = 0.5, 0  # exactly a half is background: both empty
    masks[:, :, 6] = gt_masks[:, :, 6]
    estimate = np.array([0.2, 0.9, 1.7, 3.0, -0.4, 0.3, 0.9, 2.5])
    ious = [plain_iou(masks[..., i], gt_masks[..., i]) for i in range(8)]
    assert ious[5] == 0 and ious[6] == 1
    assert {abs(value - iou) > 1 for value, iou in zip(estimate, ious)} == {True, False}
    expected = sum(smooth_l1(value - iou) for value, iou in zip(estimate, ious))
    ours = losses.mask_iou_loss(*tensors(estimate, masks, gt_masks)).item()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


COEFFS, CLASSES, SIDE = 4, 4, 12


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


def plain_mask_iou(config, out, targets, estimate):
    """I: of the objects with more cells than discard_mask_area, divided by all positives."""
    total, count = 0.0, 0
    for i, prior, instance in positives_of(config, out, targets):
        count += 1
        small = losses.downsample_masks(paddle.to_tensor(targets[i].masks), SIDE, SIDE).numpy()[instance]
        if small.sum() > config.discard_mask_area:
            proto, coeffs = out["proto"][i].numpy().astype("float64"), out["mask"][i, prior].numpy()
            mask = sigmoid(proto @ coeffs) * inside_box(targets[i].boxes[instance])
            value = estimate(i, prior, mask, targets[i].labels[instance])
            total += smooth_l1(value - plain_iou(mask, small))
    return total / count


def area_between(targets):
    """A number of cells that some objects exceed, one has exactly, and some have not."""
    small = [losses.downsample_masks(paddle.to_tensor(target.masks), SIDE, SIDE).numpy() for target in targets]
    areas = np.sort(np.concatenate(small).sum(axis=(1, 2)))
    middle = len(areas) // 2
    assert areas[0] < areas[middle] < areas[-1]
    return int(areas[middle])


@pytest.mark.parametrize("kind", ["network", "branch"])
def test_i_is_the_loss_of_large_enough_objects_over_all_positives(kind):
    paddle.seed(2)
    targets = [made_up_target([1, 0.3, 0.5], 1), made_up_target([0.2, 0.9], 2)]
    area = area_between(targets)
    options = {"use_mask_scoring": True, "mask_scoring_alpha": 3.0} if kind == "branch" else {
        **MASK_IOU, "maskiou_alpha": 3.0}
    config = tiny(discard_mask_area=area, **options)
    net = FastMaskIoUNet([(4, 3, {"stride": 2})], CLASSES - 1) if kind == "network" else None
    out = made_up_outputs(**({"score": 1} if kind == "branch" else {}))

    def estimate(i, prior, mask, label):
        if net is None:
            return sigmoid(out["score"][i, prior, 0].item())
        return net(*tensors(mask[None, None])).numpy()[0, label]

    ours = MultiBoxLoss(config, net)(out, targets)["I"]
    np.testing.assert_allclose(ours.item(), 3 * plain_mask_iou(config, out, targets, estimate), rtol=1e-4)
    for other in (area - 1, area + 1):  # "exactly so large" decides
        moved = MultiBoxLoss(config.copy({"discard_mask_area": other}), net)(out, targets)["I"].item()
        assert (abs(moved - ours.item()) > 1e-6) == (other < area)


def test_without_a_large_object_i_is_zero():
    targets, net = [made_up_target([1, 0.3], 1)], FastMaskIoUNet([], CLASSES - 1)
    out = made_up_outputs(1)
    terms = MultiBoxLoss(tiny(discard_mask_area=SIDE ** 2, **MASK_IOU), net)(out, targets)
    assert terms["I"].item() == 0 and terms["M"].item() > 0
    sum(terms.values()).backward()
    assert all(np.isfinite(out[name].grad.numpy()).all() for name in ("proto", "mask"))
    empty = MultiBoxLoss(tiny(**MASK_IOU), net)(made_up_outputs(1), [made_up_target([])])
    assert empty["I"].item() == empty["M"].item() == 0


def test_i_teaches_the_prototypes_and_coefficients_too():
    """The estimator's input is not cut off from what made it, as in the original."""
    paddle.seed(2)
    net, out = FastMaskIoUNet([(4, 3, {"stride": 2})], CLASSES - 1), made_up_outputs()
    targets = [made_up_target([1, 0.3, 0.5], 1), made_up_target([0.2, 0.9], 2)]
    MultiBoxLoss(tiny(**MASK_IOU), net)(out, targets)["I"].backward()
    for name in ("proto", "mask"):
        assert out[name].grad.numpy().any(), name
    assert out["conf"].grad is None and all(parameter.grad.numpy().any() for parameter in net.parameters())


def test_the_mask_iou_net_is_convolutions_then_relu_then_the_largest_value():
    net = FastMaskIoUNet([(2, 1, {})], 3)
    assert [type(layer).__name__ for layer in net.maskiou_net] == ["Conv2D", "ReLU", "Conv2D", "ReLU"]
    random = np.random.RandomState(0)
    numbers = {name: random.standard_normal(value.shape) for name, value in net.state_dict().items()}
    numbers["maskiou_net.2.bias"][1] = -2.5  # some estimates of this class are below 0 before the ReLU
    net.set_state_dict({name: value.astype("float32") for name, value in numbers.items()})
    masks = random.rand(5, 1, 6, 7)
    first, second = (numbers[f"maskiou_net.{i}.weight"][..., 0, 0] for i in (0, 2))
    first_bias, second_bias = (numbers[f"maskiou_net.{i}.bias"] for i in (0, 2))
    hidden = np.maximum(first[:, 0] * masks[:, 0, ..., None] + first_bias, 0)
    expected = np.maximum(hidden @ second.T + second_bias, 0).max(axis=(1, 2))
    ours = net(*tensors(masks)).numpy()
    assert ours.shape == (5, 3) and (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_the_estimate_of_an_empty_mask_follows_from_the_biases():
    paddle.seed(0)
    net = FastMaskIoUNet([(4, 3, {"stride": 2}), (5, 3, {"stride": 2})], 6)
    value = np.zeros(1)
    for layer in net.maskiou_net:
        if isinstance(layer, nn.Conv2D):
            layer.bias.set_value(np.random.RandomState(3).standard_normal(layer.bias.shape).astype("float32"))
            value = np.maximum(layer.weight.numpy().astype("float64").sum(axis=(2, 3)) @ value + layer.bias.numpy(), 0)
    assert value.any()
    np.testing.assert_allclose(net(paddle.zeros([2, 1, 23, 17])).numpy(), [value, value], rtol=1e-5)


def test_of_class_picks_the_object_s_class():
    paddle.seed(0)
    net, masks = FastMaskIoUNet([(4, 3, {})], 6), np.random.RandomState(0).rand(9, 8, 5)
    for parameter in net.maskiou_net[-2].parameters():
        parameter.set_value(parameter.abs() + paddle.arange(6.).reshape([-1] + [1] * (parameter.ndim - 1)))
    every = net(*tensors(masks.transpose(2, 0, 1)[:, None])).numpy()
    classes = np.array([5, 0, 3, 3, 1])
    assert (np.diff(np.sort(every, axis=1), axis=1) > 0).all()
    np.testing.assert_allclose(net.of_class(*tensors(masks, classes)).numpy(), every[np.arange(5), classes], rtol=1e-6)


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


# --- protonet -----------------------------------------------------------------------------------------------

def test_one_more_prototype_is_one_everywhere():
    paddle.seed(0)
    net = ProtoNet(3, [(5, 3, {"padding": 1}), (4, 1, {})], nn.functional.relu, bias=True)
    protos = net(paddle.randn([2, 3, 6, 7])).numpy()
    assert protos.shape == (2, 6, 7, 5) and (protos[..., -1] == 1).all() and not (protos[..., :-1] == 1).any()
    config = tiny(mask_proto_bias=True)
    assert config.mask_dim == tiny().mask_dim + 1 == 9
    assert Yolact(config).prediction_layers[0].mask_layer.weight.shape[0] == 3 * 9


def test_the_protonet_may_see_where_it_is():
    """A convolution that hands on its last two channels shows x, then y, of the cells' centres."""
    net = ProtoNet(3, [(2, 1, {})], lambda x: x, use_grid=True)
    assert net[0].weight.shape == [2, 5, 1, 1]
    net[0].weight.set_value(np.eye(5, dtype="float32")[3:, :, None, None])
    protos = net(paddle.randn([2, 3, 4, 8])).numpy()
    np.testing.assert_allclose(protos[..., 0], np.broadcast_to((np.arange(8) + 0.5) / 8, [2, 4, 8]))
    np.testing.assert_allclose(protos[..., 1], np.broadcast_to(((np.arange(4) + 0.5) / 4)[:, None], [2, 4, 8]))


# --- backbones ----------------------------------------------------------------------------------------------

def test_vgg_outputs():
    """76 pixels: the fourth stage rounds up (19 to 10), the others down, as SSD's 300 pixels do at 75."""
    config = get_config("yolact_vgg16").backbone
    net = build_backbone(config)
    net.eval()
    with paddle.no_grad():
        shapes = [level.shape[1:] for level in net(paddle.zeros([1, 3, 76, 76]))]
    assert shapes == [[64, 76, 76], [128, 38, 38], [256, 19, 19], [512, 10, 10], [512, 5, 5], [1024, 5, 5], [512, 3, 3]]
    assert net.channels == [shape[0] for shape in shapes] and config.selected_layers == [3, 5, 6]
    counts = [sum(isinstance(layer, nn.Conv2D) for layer in stage) for stage in net.layers]
    assert counts == [2, 2, 3, 3, 3, 2, 2]
    dilated = [layer for layer in net.sublayers() if isinstance(layer, nn.Conv2D) and layer._dilation[0] == 6]
    assert [layer.weight.shape for layer in dilated] == [[1024, 512, 3, 3]]


SLIM_VGG = ([[8], ["M", 8], ["M", 8], [["M", {"kernel_size": 2, "stride": 2, "ceil_mode": True}], 16],
             ["M", 16], [["M", {"kernel_size": 3, "stride": 1, "padding": 1}], 16]], [[8, 2]], [3])


def test_vgg_normalises_the_stages_asked_for():
    stages, added, _ = SLIM_VGG
    x = paddle.randn([1, 3, 40, 40])
    normed, plain = (build_backbone(tiny(backbone={"type": "VGGBackbone", "args": (stages, added, norms)}).backbone)
                     for norms in ([3], []))
    weights = normed.state_dict()
    assert {name for name in weights if name.startswith("norms.")} == {
        f"norms.0.{leaf}" for leaf in ("weight", "bias", "_mean", "_variance")}
    weights["norms.0._mean"].set_value(paddle.full([16], 0.5))
    weights["norms.0._variance"].set_value(paddle.full([16], 4.0))
    plain.set_state_dict({name: value for name, value in weights.items() if not name.startswith("norms.")})
    normed.eval()
    with paddle.no_grad():
        ours, theirs = normed(x), plain(x)
        expected = [*theirs[:3], (theirs[3] - 0.5) / 2]
        for stage in plain.layers[4:]:  # later stages see the normalised map
            expected.append(stage(expected[-1]))
    assert len(ours) == len(expected) == len(theirs) > 4
    for i, (one, other) in enumerate(zip(ours, expected)):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-5, err_msg=str(i))


def test_group_norm_takes_the_place_of_every_batch_norm():
    config = get_config("yolact_resnet101_gn").backbone
    args = [[1, 1, 1, 1]]
    assert config.args == [[3, 4, 23, 3]]
    ours = build_backbone(SimpleNamespace(type=config.type, args=args))
    plain = build_backbone(SimpleNamespace(type="ResNetBackbone", args=args))
    norms = [layer for layer in ours.sublayers() if isinstance(layer, nn.GroupNorm)]
    assert len(norms) == sum(isinstance(layer, nn.BatchNorm2D) for layer in plain.sublayers())
    assert not any(isinstance(layer, nn.BatchNorm2D) for layer in ours.sublayers())
    x = paddle.randn([1, 64, 5, 5])
    groups = x.numpy().reshape(32, -1)
    expected = (groups - groups.mean(axis=1, keepdims=True)) / np.sqrt(groups.var(axis=1, keepdims=True) + 1e-5)
    assert all(layer._num_groups == 32 for layer in norms)
    np.testing.assert_allclose(norms[0](x).numpy().reshape(32, -1), expected, atol=1e-4)
    learnt = {name: value.shape for name, value in plain.state_dict().items()
              if not name.endswith(("_mean", "_variance"))}
    assert {name: value.shape for name, value in ours.state_dict().items()} == learnt


# --- whole networks -----------------------------------------------------------------------------------------

def protos(count):
    return {"mask_proto_net": [*TINY["mask_proto_net"][:-1], (count, 1, {})]}


WHOLE = {  # overrides, terms of the loss, mask_dim
    "plain": ({}, "BMCS", 8),
    **{mode: (options, "BMCS", 8) for mode, options in FOCAL.items()},
    "class existence": ({"use_class_existence_loss": True}, "BMCES", 8),
    "diversity": ({"mask_proto_coeff_diversity_loss": True}, "BMDCS", 8),
    "mask scoring": ({"use_mask_scoring": True}, "BMCIS", 8),
    "mask IoU": (MASK_IOU, "BMCIS", 8),
    "mask IoU, boxes too": ({**MASK_IOU, "rescore_bbox": True}, "BMCIS", 8),
    "all at once": ({**FOCAL["sigmoid"], **MASK_IOU, "use_class_existence_loss": True, "mask_proto_bias": True,
                     "mask_proto_coeff_diversity_loss": True, "mask_proto_use_grid": True}, "BMDCIES", 9),
    "direct": ({"mask_type": "direct", "mask_size": 5}, "BMCS", 25),
    "bias": ({"mask_proto_bias": True}, "BMCS", 9),
    "grid": ({"mask_proto_use_grid": True}, "BMCS", 8),
    "no crop": ({"mask_proto_crop": False}, "BMCS", 8),
    "no segmentation": ({"use_semantic_segmentation_loss": False}, "BMC", 8),
    **{f"k {count}": (protos(count), "BMCS", count) for count in (8, 16, 32, 64)},
    "aspect": ({"preserve_aspect_ratio": True}, "BMCS", 8),
    "group norm": ({"backbone": {"type": "ResNetBackboneGN", "args": ([1, 1, 1],)}}, "BMCS", 8),
    "vgg": ({"backbone": {"type": "VGGBackbone", "args": SLIM_VGG, "selected_layers": [3, 5],
                          "transform": {"normalize": False, "subtract_means": True}}}, "BMCS", 8),
}


def batch_of(config, data, count=2):
    content = data / "annotations" / "instances_train.json"
    transform = build_augmentation(config, MEANS, STD, training=True)
    pictures = COCODetection(str(data / "train"), str(content), transform, config.dataset.class_names, training=True)
    return collate([pictures.sample(i, np.random.RandomState(i)) for i in range(count)])


def unmoved(net):
    """Names of the parameters that the last backward gave no gradient."""
    return {name for name, value in net.named_parameters() if not name.endswith(("._mean", "._variance"))
            and (value.grad is None or not value.grad.numpy().any())}


@pytest.mark.parametrize("case", WHOLE)
def test_the_option_works_in_a_whole_network(case, demo_data):
    """It trains, each parameter takes part, and it detects: masks of the picture's size in boxes inside it."""
    overrides, letters, mask_dim = WHOLE[case]
    config = tiny(**overrides)
    assert config.mask_dim == mask_dim
    paddle.seed(1)
    net = Yolact(config)
    net.train()
    batch = batch_of(config, demo_data)
    out = net(paddle.to_tensor(batch.images))
    assert out["mask"].shape[2] == mask_dim and ("proto" in out) == (config.mask_type == "lincomb")
    terms = MultiBoxLoss(config, net.maskiou_net)(out, batch.samples)
    values = {name: term.item() for name, term in terms.items()}
    assert "".join(values) == letters and all(np.isfinite(value) and value > 0 for value in values.values())
    sum(terms.values()).backward()
    # The added stage lies behind the last one that is selected here: it feeds nothing.
    last = {name for name in unmoved(net) if case == "vgg" and name.startswith("backbone.layers.6.")}
    assert unmoved(net) == last
    net.eval()
    picture = np.random.RandomState(0).randint(0, 256, [40, 56, 3]).astype("uint8")
    assert_detections(Predictor(net, config).detect(picture), 40, 56)


def assert_detections(found, height, width):
    assert len(found.scores) > 5 and found.masks.shape == (len(found.scores), height, width)
    assert np.isfinite(found.scores).all() and np.isfinite(found.mask_scores).all()
    assert (found.boxes >= 0).all() and (found.boxes <= [width, height] * 2).all()


def test_the_published_variants_have_their_number_of_coefficients():
    for name, mask_dim in [("yolact_k8", 8), ("yolact_k16", 16), ("yolact_base", 32), ("yolact_k64", 64),
                           ("yolact_fcmask", 16 ** 2)]:
        assert get_config(name).mask_dim == mask_dim


def test_direct_masks_have_no_protonet_and_lie_between_0_and_1():
    net = Yolact(tiny(mask_type="direct"))
    out = net(paddle.randn([1, 3, 48, 48]))
    assert out["mask"].shape[2] == 16 ** 2 and 0 < out["mask"].min().item() < out["mask"].max().item() < 1
    assert not [name for name in net.state_dict() if name.startswith("proto_net")]


def test_masks_that_are_not_cropped_reach_out_of_their_boxes():
    config = tiny(mask_proto_crop=False)
    picture = np.full([40, 56, 3], 127, "uint8")
    paddle.seed(1)
    net = Yolact(config)
    net.eval()
    for parameter in net.prediction_layers[0].mask_layer.parameters():
        parameter.set_value(paddle.abs(parameter) + 0.1)  # every mask fills what it may
    whole, cropped = (Predictor(net, each).detect(picture) for each in (config, tiny()))
    assert whole.masks.mean() > 0.9 > cropped.masks.mean()


def test_each_new_weight_scales_its_own_term():
    targets = [made_up_target([1, 0.3, 0.5], 1)]
    cases = {"D": ("mask_proto_coeff_diversity_alpha", {"mask_proto_coeff_diversity_loss": True}),
             "E": ("class_existence_alpha", {}), "I": ("mask_scoring_alpha", {"use_mask_scoring": True})}
    for letter, (key, options) in cases.items():
        out = made_up_outputs(1, score=1)
        [out["classes"]] = tensors(np.array([[0.5, -0.5, 1.0]]))
        before, after = ({name: term.item() for name, term in MultiBoxLoss(tiny(**options, **{key: alpha}))(
            out, targets).items()} for alpha in (1.0, 2.5))
        assert letter in before
        for name, value in before.items():
            np.testing.assert_allclose(after[name], value * (2.5 if name == letter else 1), rtol=1e-6, err_msg=name)


def test_diversity_and_existence_are_divided_by_positives_and_pictures():
    config = tiny(mask_proto_coeff_diversity_loss=True)
    out, targets = made_up_outputs(), [made_up_target([1, 0.3, 0.5], 1), made_up_target([0.2, 0.9], 2)]
    [out["classes"]] = tensors(np.array([[0.5, -0.5, 1.0], [2.0, 0.1, -1.0]]))
    terms = MultiBoxLoss(config)(out, targets)
    positives = list(positives_of(config, out, targets))
    of_picture = [[(prior, instance) for j, prior, instance in positives if j == i] for i in (0, 1)]
    diversity = sum(plain_diversity(out["mask"][i].numpy().astype("float64")[[prior for prior, _ in rows]],
                                    [instance for _, instance in rows]) for i, rows in enumerate(of_picture))
    np.testing.assert_allclose(terms["D"].item(), diversity / len(positives), rtol=1e-5)
    existence = ablation_losses.class_existence_loss(out["classes"], tensors(*(target.labels for target in targets)))
    np.testing.assert_allclose(terms["E"].item(), existence.item() / 2, rtol=1e-6)


# --- delayed settings ---------------------------------------------------------------------------------------

def settings_of(criterion):
    """The criterion's attributes, the arguments of its class loss among them."""
    attributes = dict(vars(criterion))
    conf_loss = attributes.pop("conf_loss")
    return {**attributes, "conf_loss": (conf_loss.func, conf_loss.keywords)}


def test_delayed_settings_are_cumulative_and_in_order_of_their_iteration():
    config = tiny(delayed_settings=[[20, {"mask_alpha": 3.0}], [10, {"bbox_alpha": 2.0, "mask_alpha": 1.0}],
                                    [20, {"conf_alpha": 7.0}]], bbox_alpha=0.5, mask_alpha=0.25, conf_alpha=1.0)
    found = criteria(config)
    assert [first for first, _ in found] == [0, 10, 20, 20]
    assert [[criterion.weights[letter] for letter in "BMC"] for _, criterion in found] == [
        [0.5, 0.25, 1], [2, 1, 1], [2, 3, 1], [2, 3, 7]]
    assert config.mask_alpha == 0.25


@pytest.mark.parametrize("key", DELAYED_KEYS)
def test_every_key_that_may_be_delayed_changes_the_criterion(key):
    options = {"mask_scoring_alpha": {"use_mask_scoring": True}}.get(
        key, {"use_focal_loss": True} if key.startswith("focal") else {})
    config = tiny(**options)
    value = config[key] + 1 if isinstance(config[key], int) else config[key] * 1.25
    net = object()
    [(_, before), (first, after)] = criteria(config.copy({"delayed_settings": [[5, {key: value}]]}), net)
    assert first == 5 and settings_of(before) != settings_of(after) and after.maskiou_net is net


@pytest.mark.parametrize("wrong", [[[3, {"max_size": 400}]], [[3, {"mask_alpha": 1.0, "lr": 1e-4}]], [3, {"lr": 1}],
                                   [[3]], [["3", {}]], [[3, "mask_alpha"]], [[2.5, {}]]])
def test_delayed_settings_of_another_form_are_refused(wrong):
    with pytest.raises(ConfigError, match="delayed_settings.*iteration.*mask_alpha.*ohem_negpos_ratio"):
        tiny(delayed_settings=wrong)


def test_a_delayed_value_of_the_wrong_type_names_its_key():
    with pytest.raises(ConfigError, match="mask_alpha"):
        criteria(tiny(delayed_settings=[[3, {"mask_alpha": "much"}]]))


def test_train_refuses_delayed_settings_that_are_no_weights(demo_data, tmp_path):
    assert_refused("train", train_arguments(demo_data, tmp_path, overrides=["delayed_settings=[[3, {'lr': 1}]]"]),
                   "delayed_settings", "mask_alpha")
    wrong = "delayed_settings=[[3, {'mask_alpha': 'much'}]]"
    assert_refused("train", train_arguments(demo_data, tmp_path, overrides=[wrong]), "mask_alpha")


def losses_of(folder):
    return {record["data"]["iter"]: record["data"]["loss"] for record in records(folder, "train")}


def quietly(script, arguments):
    """Runs a script; returns what it prints."""
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        run(script, arguments)
    return console.getvalue()


def test_a_training_changes_its_weights_at_the_iteration_told(demo_data, tmp_path):
    """And a resumed one, whether it starts before or behind it."""
    mask_alpha = get_config("yolact_demo").mask_alpha
    delayed = ["max_iter=5", f"delayed_settings=[[2, {{'mask_alpha': {2 * mask_alpha}}}], [4, {{'conf_alpha': 0.}}]]"]
    plain, straight = tmp_path / "plain", tmp_path / "straight"
    quietly("train", train_arguments(demo_data, plain, overrides=["max_iter=5"]))
    quietly("train", train_arguments(demo_data, straight, "--save_interval=1", overrides=delayed))
    before, after = losses_of(plain), losses_of(straight)
    assert before[0] == after[0] and before[1] == after[1]  # the same seed
    for letter, value in before[2].items():  # of the same weights, as only the update to come differs
        if letter != "T":
            np.testing.assert_allclose(after[2][letter], value * (2 if letter == "M" else 1), rtol=1e-6)
    assert [after[i]["C"] > 0 for i in range(5)] == [True, True, True, True, False]
    for start in (1, 3):
        resumed = tmp_path / f"from {start}"
        path = straight / "weights" / f"{stem_of(demo_data, start)}.pdparams"
        quietly("train", train_arguments(demo_data, resumed, f"--resume={path}", overrides=delayed))
        assert losses_of(resumed) == {i: value for i, value in after.items() if i >= start}


# --- pictures that keep their aspect ratio ------------------------------------------------------------------

TRANSFORM = get_config("yolact_demo").backbone.transform


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40), (50, 50), (13, 97), (480, 640)])
def test_the_size_keeps_aspect_ratio_and_area(height, width):
    size = input_size(height, width, 96, True)
    assert size == (int(96 * np.sqrt(height / width)), int(96 * np.sqrt(width / height)))
    assert input_size(height, width, 96, False) == (96, 96)
    picture = np.random.RandomState(0).randint(0, 256, [height, width, 3]).astype("uint8")
    image = base_transform(picture, 96, TRANSFORM, MEANS, STD, True)
    assert image.shape == (3, *size)
    rgb = cv2.resize(picture[..., ::-1].astype("float32"), size[::-1])
    np.testing.assert_allclose(image.transpose(1, 2, 0), (rgb - MEANS[::-1]) / STD[::-1], rtol=0, atol=1e-4)


def picture_with_rectangles(height, width):
    """(picture, masks, boxes in pixels, labels) of two rectangles, each bright in its own colour."""
    boxes = np.array([[width // 8, height // 4, width // 2, height // 2],
                      [width // 2, height // 3, width - width // 8, height - 1]], "float64")
    picture, masks = np.zeros([height, width, 3], "uint8"), []
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int)):
        masks.append(np.zeros([height, width], "uint8"))
        masks[-1][y1:y2, x1:x2] = 1
        picture[y1:y2, x1:x2, i] = 255
    return picture, masks, boxes, np.array([0, 2])


def assert_masks_fill_their_boxes(masks, boxes):
    """Extents of the masks equal the relative boxes, within a pixel on each side."""
    height, width = masks.shape[1:]
    for mask, box in zip(masks, boxes):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(extent - box * ([width, height] * 2)).max() <= 1 + 1e-4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("height, width", [(60, 90), (120, 50)])
def test_augmented_pictures_keep_their_aspect_ratio(height, width, seed):
    """The canvas's own, which expanding keeps and turns may swap; boxes and masks stay with the picture."""
    expands, turns = seed % 2 == 1, seed >= 3
    augment = SSDAugmentation(72, TRANSFORM, MEANS, STD, photometric_distort=False, expand=expands, random_flip=True,
                              random_sample_crop=False, random_rot90=turns, preserve_aspect_ratio=True)
    image, masks, boxes, labels = augment(np.random.RandomState(seed), *picture_with_rectangles(height, width))
    expected = int(72 * np.sqrt(height / width)), int(72 * np.sqrt(width / height))
    sizes = [expected, expected[::-1]] if turns else [expected]
    # The sides of an expanded canvas are whole pixels, and so are those of the result.
    assert any(np.abs(np.subtract(image.shape[1:], size)).max() <= (1 if expands else 0) for size in sizes)
    assert masks.shape == (2, *image.shape[1:]) and labels.tolist() == [0, 2]
    assert_masks_fill_their_boxes(masks, boxes)


def made_sample(height, width):
    picture, masks, boxes, labels = picture_with_rectangles(height, width)
    image = base_transform(picture, height, {**TRANSFORM, "normalize": False, "to_float": True}, MEANS, STD)
    image = np.stack([cv2.resize(plane, (width, height)) for plane in image]) + 0.5  # nowhere 0
    return Sample(image, (boxes / [width, height, width, height]).astype("float32"), labels, np.stack(masks), 0, 7,
                  height, width, "x.jpg")


@pytest.mark.parametrize("height, width, inside", [(48, 48, (24, 48)), (60, 48, (24, 48)), (20, 60, (20, 40)),
                                                   (90, 180, (90, 180)), (33, 47, (24, 47))])
def test_a_sample_fits_another_size_with_zeros_to_the_right_or_below(height, width, inside):
    sample = made_sample(30, 60)
    found = fitted(sample, height, width)
    assert found.image.shape == (3, height, width) and found.masks.shape == (2, height, width)
    assert found.image.dtype == "float32" and found.masks.dtype == "uint8" and found.boxes.dtype == "float32"
    assert (found.image[:, :inside[0], :inside[1]] > 0.4).all()
    assert not found.image[:, inside[0]:].any() and not found.image[:, :, inside[1]:].any()
    assert (found.height, found.width, found.labels.tolist()) == (30, 60, [0, 2])
    assert_masks_fill_their_boxes(found.masks, found.boxes)
    assert set(np.unique(found.masks)) == {0, 1} and sample.image.shape == (3, 30, 60)


def test_the_first_picture_sets_the_size_of_a_batch():
    samples = [made_sample(30, 60), made_sample(60, 30), made_sample(30, 60)]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 30, 60) and [len(sample.boxes) for sample in batch.samples] == [2, 2, 2]
    np.testing.assert_array_equal(batch.images[[0, 2]], [samples[0].image, samples[2].image])
    assert not batch.images[1, :, :, 15:].any() and batch.images[1, :, :, :15].all()
    np.testing.assert_array_equal(batch.samples[1].masks, fitted(samples[1], 30, 60).masks)
    assert samples[1].image.shape == (3, 60, 30)


@pytest.mark.parametrize("shapes", [[(8, 1000), (1000, 8)], [(1, 3000), (50, 50)]])
def test_extreme_shapes_keep_a_pixel_at_least(shapes):
    samples = []
    for height, width in shapes:
        image = base_transform(np.zeros([height, width, 3], "uint8"), 48, TRANSFORM, MEANS, STD, True)
        masks, boxes = np.ones([1, *image.shape[1:]], "uint8"), np.array([[0, 0, 1, 1]], "float32")
        samples.append(Sample(image, boxes, np.array([0]), masks, 0, 1, height, width, "x.jpg"))
    batch = collate(samples)
    assert batch.images.shape[2:] == samples[0].image.shape[1:] and all(sample.masks.any() for sample in batch.samples)


def cut_pictures(data, split):
    """Cut the pictures of a split to a half, alternately the left and the upper one, and their objects with them."""
    def change(content):
        sizes = {}
        for number, image in enumerate(content["images"]):
            path = str(data / split / image["file_name"])
            pixels = cv2.imread(path)
            side = len(pixels)
            height, width = sizes[image["id"]] = (side, side // 2) if number % 2 else (side // 2, side)
            assert cv2.imwrite(path, pixels[:height, :width])
            image.update(height=height, width=width)
        kept = []
        for annotation in content["annotations"]:
            height, width = sizes[annotation["image_id"]]
            encoded = rle.encode(np.asfortranarray(rle.decode(annotation["segmentation"])[:height, :width]))
            if rle.area(encoded) > 0:
                annotation.update(bbox=rle.toBbox(encoded).tolist(), area=float(rle.area(encoded)),
                                  segmentation={"size": [height, width], "counts": encoded["counts"].decode()})
                kept.append(annotation)
        content["annotations"] = kept
    edit_info(data, split, change)


def test_pictures_of_several_shapes_train_and_evaluate(demo_data, tmp_path):
    data = copy_data(demo_data, tmp_path / "data")
    for split in ("train", "val"):
        cut_pictures(data, split)
    options = ["preserve_aspect_ratio=True", "augment_expand=True", "augment_random_sample_crop=True", "max_iter=4"]
    quietly("train", train_arguments(data, tmp_path, "--validation_epoch=1", "--validation_size=4", overrides=options))
    found = records(tmp_path, "train")
    assert len(found) == 4 and all(np.isfinite(list(record["data"]["loss"].values())).all() for record in found)
    assert records(tmp_path, "val")
    weights = tmp_path / "weights" / f"{stem_of(data, 4)}.pdparams"
    quietly("eval", [f"--trained_model={weights}", "--cuda=False", "--no_bar", f"--output_folder={tmp_path / 'out'}",
                     "--output_coco_json", "-o", "nms_conf_thresh=0.", *places(data)])
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    masks = json.loads((tmp_path / "out" / "mask_detections.json").read_text())
    assert {mask["image_id"] for mask in masks} == set(sizes) and len(set(map(tuple, sizes.values()))) == 2
    assert all(mask["segmentation"]["size"] == sizes[mask["image_id"]] for mask in masks)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics) == {"bbox", "segm"}


# --- contradictions -----------------------------------------------------------------------------------------

CONTRADICTIONS = {
    "two focal losses": ({**FOCAL["sigmoid"], "use_objectness_score": True}, "choose one"),
    "sigmoid without focal": ({"use_sigmoid_focal_loss": True}, "set use_focal_loss"),
    "objectness without focal": ({"use_objectness_score": True}, "set use_focal_loss"),
    "two estimates of the IoU": ({**MASK_IOU, "use_mask_scoring": True}, "use_maskiou and use_mask_scoring"),
    "no layers": ({"use_maskiou": True}, "needs the layers of maskiou_net"),
    "direct and maskiou": ({**MASK_IOU, "mask_type": "direct"}, "mask_type='lincomb'"),
    "direct and mask scoring": ({"use_mask_scoring": True, "mask_type": "direct"}, "mask_type='lincomb'"),
    "direct and diversity": ({"mask_proto_coeff_diversity_loss": True, "mask_type": "direct"}, "mask_type='lincomb'"),
    "unknown kind of mask": ({"mask_type": "polygon"}, "lincomb, direct"),
    "unknown activation": ({"mask_proto_prototype_activation": "elu"}, "relu, sigmoid"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_switches_that_exclude_each_other_are_refused(case):
    overrides, words = CONTRADICTIONS[case]
    with pytest.raises(ConfigError, match=words):
        tiny(**overrides)
