"""Networks with options that the published ones leave off: their parts, and each option in a whole network."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from ablations import (
    FOCAL,
    MASK_IOU,
    TINY,
    made_up_outputs,
    made_up_target,
    plain_diversity,
    positives_of,
    tensors,
    tiny,
)
from paddle import nn

from backbone import build_backbone
from data.coco import COCODetection, collate
from data.config import MEANS, STD, get_config
from data.config_types import ConfigError
from layers import ablation_losses
from layers.multibox_loss import MultiBoxLoss
from layers.protonet import ProtoNet
from utils.augmentations import build_augmentation
from utils.predictor import Predictor
from yolact import Yolact

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
