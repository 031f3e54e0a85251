"""The network: outputs, inner maps and names equal the original's; a new one starts as the original's."""
import gc
from types import SimpleNamespace

import numpy as np
import paddle
import parity
import pytest
from paddle import nn

from backbone import build_backbone
from data.config import available_configs, get_config
from layers.fpn import FPN
from layers.priors import make_priors
from layers.protonet import make_net
from yolact import Yolact

TOLERANCE = 1e-4  # of the abs-max; the original in float32 is within 8e-6 of itself in float64
OUTPUTS = {"train/loc", "train/conf", "train/mask", "train/proto", "train/segm", "train/priors"}
MAPS = {"backbone/3", "fpn/0", "fpn/4"}


def assert_errors_small(errors):
    assert set(errors) >= OUTPUTS | MAPS
    too_large = {key: error for key, error in errors.items() if not error <= TOLERANCE}
    assert not too_large


@pytest.mark.parametrize("config_name", parity.CONFIGS)
def test_outputs_and_maps_equal_the_original(config_name):
    assert_errors_small(parity.forward(config_name).errors)


def test_outputs_and_maps_equal_the_original_at_700_pixels(goldens_dir):
    assert_errors_small(parity.forward.__wrapped__("yolact_im700", goldens_dir).errors)  # not to be kept


@pytest.mark.parametrize("config_name", parity.CONFIGS)
def test_candidates_over_the_confidence_threshold(config_name):
    config, outputs, *_ = parity.forward(config_name)
    conf = outputs["conf"].astype("float64")
    scores = np.exp(conf - conf.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    golden = parity.goldens(f"forward_{config_name}.npz")
    assert parity.relative_error(golden, "eval/conf", scores) < TOLERANCE
    best = scores[..., 1:].max(axis=-1)
    assert (best > config.nms_conf_thresh).sum() == golden["eval/num_over_conf_thresh"]


def assert_heads_fit_the_priors(config, net):
    head, priors_of_a_cell = net.prediction_layers[0], make_priors(1, 1, **net.prior_settings[0])
    assert len(net.prior_settings) == len(config.backbone.selected_layers) + config.fpn.num_downsample
    widths = [(head.bbox_layer, 4), (head.conf_layer, config.num_classes), (head.mask_layer, config.mask_dim)]
    for layer, width in widths:
        assert layer.weight.shape[0] == width * len(priors_of_a_cell)


@pytest.mark.parametrize("config_name", [*parity.CONFIGS, "yolact_im700"])
def test_names_and_shapes_equal_the_original(config_name):
    config = get_config(config_name)
    net = Yolact(config)
    ours = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    theirs = {parity.paddle_name(name): tuple(shape) for name, shape in parity.entries(config_name)}
    theirs.pop(None)
    assert ours == theirs
    assert_heads_fit_the_priors(config, net)


def test_all_other_configs_build():
    compared = {f"{name}_config" for name in [*parity.CONFIGS, "yolact_im700"]}
    others = set(available_configs()) - compared
    assert others
    for name in others:
        config = get_config(name)
        if config.dataset.class_names is None:  # those of a JSON
            config.dataset.class_names = ["salmon", "pike"]
        assert_heads_fit_the_priors(config, Yolact(config))


@pytest.fixture(scope="module")
def small_net():
    """yolact_resnet50 with recipe weights; batch norm not frozen."""
    net = Yolact(get_config("yolact_resnet50"))
    net.set_state_dict(parity.recipe_weights("yolact_resnet50"))
    yield net
    del net
    gc.collect()


@pytest.fixture(scope="module")
def small_images():
    return paddle.to_tensor(np.random.RandomState(0).standard_normal([2, 3, 138, 138]).astype("float32"))


@paddle.no_grad()
def run(net, images):
    return {name: value.numpy() for name, value in net(images).items()}


def assert_same(ours, theirs, names):
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=2e-5 * np.abs(theirs[name]).max(),
                                   err_msg=name)


def test_evaluation_mode_gives_the_frozen_training_outputs_but_segm(small_net, small_images):
    small_net.eval()
    evaluated = run(small_net, small_images)
    assert set(evaluated) == {"loc", "conf", "mask", "proto", "priors"}
    config, frozen = parity.network("yolact_resnet50")
    trained = run(frozen, small_images)
    assert set(trained) == set(evaluated) | {"segm"}
    assert_same(evaluated, trained, evaluated)


def test_a_picture_does_not_depend_on_its_batch(small_net, small_images):
    small_net.eval()
    both, second = run(small_net, small_images), run(small_net, small_images[1:])
    for name in ("loc", "conf", "mask", "proto"):
        both[name] = both[name][1:]
    assert_same(second, both, both)


def test_priors_follow_the_input_size(small_net):
    """138 pixels and then 96 x 160: a second size is not served from the first one's cache."""
    small_net.eval()
    first = run(small_net, paddle.zeros([1, 3, 138, 138]))["priors"]
    second = run(small_net, paddle.zeros([1, 3, 96, 160]))["priors"]
    again = run(small_net, paddle.zeros([1, 3, 138, 138]))["priors"]
    cells = [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]
    settings = small_net.prior_settings
    expected = np.concatenate([make_priors(h, w, **s) for (h, w), s in zip(cells, settings)])
    np.testing.assert_array_equal(second, expected)
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(second)


def test_batch_norm_learns_unless_frozen(small_images):
    """Unfrozen statistics move; frozen ones stay, through later calls of train(), and take no gradient."""
    config = get_config("yolact_demo")
    net = Yolact(config)
    statistics = [name for name in net.state_dict() if name.endswith(("_mean", "_variance"))]
    assert statistics

    def step():
        before = {name: net.state_dict()[name].numpy().copy() for name in statistics}
        out = net(small_images)
        sum(out[name].square().mean() for name in ("loc", "conf", "mask", "proto", "segm")).backward()
        changed = [name for name in statistics if (net.state_dict()[name].numpy() != before[name]).any()]
        gradients = {name for name, value in net.named_parameters()
                     if value.grad is not None and value.grad.numpy().any()}
        net.clear_gradients()
        return changed, gradients

    def affine_names():
        return {f"{name}.{leaf}" for name, layer in net.named_sublayers() for leaf in ("weight", "bias")
                if isinstance(layer, nn.BatchNorm2D)}

    net.train()
    changed, gradients = step()
    assert changed == statistics and affine_names() <= gradients
    net.freeze_bn()
    net.eval()
    net.train()
    changed, frozen_gradients = step()
    assert changed == [] and frozen_gradients == gradients - affine_names()
    assert net.training and net.backbone.training


def test_batch_norm_momentum_is_the_original_s():
    """torch's 0.1 is Paddle's 0.9: a tenth of the batch's mean comes in."""
    net = build_backbone(get_config("yolact_demo").backbone)
    norm = next(layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D))
    x = np.random.RandomState(0).standard_normal([2, norm.weight.shape[0], 5, 5]).astype("float32")
    norm.train()
    norm(paddle.to_tensor(x))
    np.testing.assert_allclose(norm._mean.numpy(), 0.1 * x.mean(axis=(0, 2, 3)), atol=1e-6)


def test_without_the_mask_branch_there_are_no_prototypes(small_images):
    net = Yolact(get_config("yolact_demo").copy({"eval_mask_branch": False}))
    net.eval()
    assert "proto" not in run(net, small_images)
    assert not [name for name in net.state_dict() if name.startswith("proto_net")]


# --- initialisation -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def new_net():
    paddle.seed(5)
    return Yolact(get_config("yolact_resnet50"))


def own_convolutions(net):
    """(name, layer) of the convolutions outside the backbone."""
    return [(name, layer) for name, layer in net.named_sublayers()
            if isinstance(layer, nn.Conv2D) and not name.startswith("backbone.")]


def test_new_convolutions_are_xavier_uniform(new_net):
    convolutions = own_convolutions(new_net)
    parts = {name.split(".")[0] for name, _ in convolutions}
    assert parts == {"fpn", "proto_net", "prediction_layers", "semantic_seg_conv"}
    for name, layer in convolutions:
        weight = layer.weight.numpy().astype("float64")
        out_channels, in_channels, kernel_height, kernel_width = weight.shape
        bound = np.sqrt(6 / ((in_channels + out_channels) * kernel_height * kernel_width))
        largest = np.abs(weight).max()
        assert 0.999 * bound < largest <= bound * (1 + 1e-6), name
        # A uniform distribution: mean 0 and standard deviation bound / sqrt(3), within 5 standard errors.
        assert abs(weight.mean()) < 5 * bound / np.sqrt(3 * weight.size), name
        assert abs(weight.std() * np.sqrt(3) / bound - 1) < 5 / np.sqrt(weight.size), name


def test_a_new_backbone_stays_finite_with_frozen_batch_norm(new_net):
    """Its convolutions are uniform in +-1/sqrt(fan in), so residual blocks do not double the signal."""
    for name, layer in new_net.backbone.named_sublayers():
        if isinstance(layer, nn.Conv2D):
            weight = layer.weight.numpy().astype("float64")
            bound = 1 / np.sqrt(np.prod(weight.shape[1:]))
            assert abs(np.abs(weight).max() / bound - 1) < 1e-2, name
            assert abs(weight.std() * np.sqrt(3) / bound - 1) < 5 / np.sqrt(weight.size), name
    new_net.eval()
    images = paddle.to_tensor(np.random.RandomState(0).randn(1, 3, 64, 64).astype("float32"))
    with paddle.no_grad():
        assert all(float(stage.abs().max().item()) < 10 for stage in new_net.backbone(images))


def test_new_biases_are_zero(new_net):
    biases = [layer.bias for _, layer in own_convolutions(new_net)]
    assert biases and all(bias is not None and not bias.numpy().any() for bias in biases)


def test_new_batch_norms_do_nothing_yet(new_net):
    for layer in new_net.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            assert (layer.weight.numpy() == 1).all() and not layer.bias.numpy().any()
            assert not layer._mean.numpy().any() and (layer._variance.numpy() == 1).all()


def test_new_weights_depend_on_the_seed_alone():
    def weights(seed):
        paddle.seed(seed)
        return {name: value.numpy() for name, value in Yolact(get_config("yolact_demo")).state_dict().items()}

    first, again, other = weights(1), weights(1), weights(2)
    assert all((first[name] == again[name]).all() for name in first)
    assert all((first[name] != other[name]).any() for name in first
               if name.endswith("weight") and first[name].ndim == 4)


# --- layers on their own ------------------------------------------------------------------------------------

def test_priors_of_one_level():
    """2 x 3 cells, two ratio lists, two scales: the list is outermost, then the scale, then the ratio."""
    settings = {"scales": [24, 48], "aspect_ratios": [[1, 4], [0.25]], "max_size": 96}
    priors = make_priors(2, 3, use_square_anchors=False, **settings).reshape(2, 3, 6, 4)
    np.testing.assert_allclose(priors[1, 2, 0, :2], [2.5 / 3, 1.5 / 2])
    sizes = np.array([[24, 24], [48, 12], [48, 48], [96, 24], [12, 48], [24, 96]]) / 96
    np.testing.assert_allclose(priors[0, 1, :, 2:], sizes, rtol=1e-6)
    square = make_priors(2, 3, use_square_anchors=True, **settings).reshape(2, 3, 6, 4)
    np.testing.assert_allclose(square[0, 1, :, 2:], sizes[:, [0, 0]], rtol=1e-6)
    assert priors.dtype == "float32"


def fpn_levels(**options):
    paddle.seed(0)
    fpn = FPN([4, 8], 6, 2, **options)
    features = [paddle.randn([1, 4, 8, 8]), paddle.randn([1, 8, 4, 4])]
    with paddle.no_grad():
        return [level.numpy() for level in fpn(features)]


def test_fpn_relu_is_on_the_outputs_but_not_on_the_added_levels():
    levels = fpn_levels()
    assert [level.shape for level in levels] == [(1, 6, 8, 8), (1, 6, 4, 4), (1, 6, 2, 2), (1, 6, 1, 1)]
    assert all((level >= 0).all() for level in levels[:2]) and all((level < 0).any() for level in levels[2:])
    plain = fpn_levels(relu_pred_layers=False)
    assert (plain[0] < 0).any()
    rectified = fpn_levels(relu_downsample_layers=True)
    np.testing.assert_array_equal(rectified[2], np.maximum(levels[2], 0))


def test_fpn_can_skip_cells_instead_of_convolving():
    levels = fpn_levels(use_conv_downsample=False)
    np.testing.assert_array_equal(levels[2], levels[1][:, :, ::2, ::2])


def test_make_net_follows_the_list_notation():
    net, channels = make_net(3, [[8, 3, {"padding": 1}], [None, -2, {}], [5, 1, {}]], include_last_relu=False)
    assert channels == 5 and net(paddle.zeros([1, 3, 6, 7])).shape == [1, 5, 12, 14]
    assert [type(layer).__name__ for layer in net] == ["Conv2D", "ReLU", "Upsample", "ReLU", "Conv2D"]
    net, _ = make_net(3, [[8, 3, {"padding": 1}]])
    assert isinstance(net[-1], nn.ReLU)


def test_unknown_backbone_type_is_named():
    with pytest.raises(ValueError, match="HRNetBackbone.*ResNetBackbone"):
        build_backbone(SimpleNamespace(type="HRNetBackbone", args=[]))
