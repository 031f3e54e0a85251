"""ImageNet weights: a classification network's own weights give our backbone the features of that network."""
import numpy as np
import paddle
import pytest
from paddle.vision import models

from backbone import build_backbone
from data.config import get_config
from utils.weights import load_backbone


def with_random_statistics(net):
    """The network in evaluation mode, its batch norms no longer those of a new one, which would hide a mix-up."""
    random = np.random.RandomState(0)
    for name, tensor in net.state_dict().items():
        if tensor.ndim == 1:
            low, high = (-0.2, 0.2) if name.endswith(("bias", "_mean")) else (0.5, 1.5)
            tensor.set_value(random.uniform(low, high, tensor.shape).astype("float32"))
    net.eval()
    return net


def assert_same_features(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        other = other.numpy()
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=1e-5 * np.abs(other).max())
        assert np.abs(other).max() > 0


@paddle.no_grad()
def resnet_features(net, images):
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    features = []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        features.append(x)
    return features


@pytest.mark.parametrize("config_name, classifier", [
    ("yolact_resnet50", models.resnet50), ("yolact_base", models.resnet101), ("yolact_plus_resnet50", models.resnet50)])
def test_resnets_of_paddle_vision(tmp_path, config_name, classifier):
    """Names are torchvision's, statistics apart. A deformable ResNet takes them too, and starts with the plain features
    where nothing is deformable: in its first stage."""
    theirs = with_random_statistics(classifier())
    path = str(tmp_path / "imagenet.pdparams")
    paddle.save(theirs.state_dict(), path)
    ours = build_backbone(get_config(config_name).backbone)
    report = load_backbone(ours, path)
    assert report.unused == ["fc.weight", "fc.bias"] and bool(report.new) == ("plus" in config_name)
    assert len(report.loaded) == len(theirs.state_dict()) - 2
    ours.eval()
    images = paddle.to_tensor(np.random.RandomState(1).standard_normal([1, 3, 64, 64]).astype("float32"))
    with paddle.no_grad():
        features = ours(images)
    count = 1 if report.new else 4
    assert_same_features(features[:count], resnet_features(theirs, images)[:count])


def test_vgg16_of_paddle_vision(tmp_path):
    """Its convolutions; fc6 and fc7 are those of SSD's reduced file, counted on from them."""
    theirs = with_random_statistics(models.vgg16())
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("features.")}
    weights.update({"31.weight": paddle.zeros([1024, 512, 3, 3]), "31.bias": paddle.zeros([1024]),
                    "33.weight": paddle.zeros([1024, 1024, 1, 1]), "33.bias": paddle.zeros([1024])})
    path = str(tmp_path / "vgg16.pdparams")
    paddle.save(weights, path)
    ours = build_backbone(get_config("yolact_vgg16").backbone)
    report = load_backbone(ours, path)
    assert len(report.loaded) == len(weights) and report.new and not report.unused
    ours.eval()
    images = paddle.to_tensor(np.random.RandomState(1).standard_normal([1, 3, 64, 64]).astype("float32"))
    ends = [4, 9, 16]  # the ReLUs before the first three poolings; the fourth stage's output is normalised
    with paddle.no_grad():
        assert_same_features(ours(images)[:3], [theirs.features[:end](images) for end in ends])
