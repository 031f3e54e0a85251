"""Published weights by name: downloaded once, converted once, and ready to be used."""
import hashlib
import json
import os
import re
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_runs import places, run
from file_server import DATA, OTHER, sha256

from data.config import (
    darknet53_backbone,
    get_config,
    resnet50_backbone,
    resnet101_backbone,
    resnet101_dcn_inter3_backbone,
    resnet101_gn_backbone,
    vgg16_backbone,
)
from utils import released as module
from utils.download import DownloadError
from utils.released import imagenet_weights, released_weights, weights_file
from utils.weights import WeightsError, read_weights, save_pth, saved_config
from yolact import Yolact

REPO = Path(__file__).resolve().parent.parent


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_released_weights_are_fetched_once(server, tmp_path, monkeypatch):
    monkeypatch.setitem(module.RELEASED, "yolact_base", f"{server.address}/yolact_base_54_800000.pth")
    for _ in range(2):
        found = released_weights("yolact_base", str(tmp_path), bar=False)
        assert found == str(tmp_path / "yolact_base_54_800000.pth") and content(found) == DATA
    assert len(server.seen) == 1


def test_names_that_have_no_released_weights(tmp_path):
    with pytest.raises(DownloadError, match="yolact_resnet50_pascal has no address .* by hand"):
        released_weights("yolact_resnet50_pascal", str(tmp_path))
    with pytest.raises(DownloadError, match="'yolact_bose'; there are yolact_base, yolact_im700"):
        released_weights("yolact_bose", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_backbone_weights_of_torchvision_are_checked_against_their_name(server, tmp_path, monkeypatch):
    good, bad = f"resnet50-{sha256(DATA)[:8]}.pth", f"resnet101-{sha256(OTHER)[:8]}.pth"
    for source in ("torchvision", "original"):
        monkeypatch.setitem(module.BACKBONES, source, {"resnet50": f"{server.address}/{good}",
                                                       "resnet101": f"{server.address}/{bad}"})
        folder = tmp_path / source
        assert imagenet_weights(source, resnet50_backbone, str(folder), bar=False) == str(folder / good)
        with pytest.raises(DownloadError, match=f"not {sha256(OTHER)[:8]}, and was deleted"):
            imagenet_weights(source, resnet101_backbone, str(folder), bar=False)
        assert os.listdir(folder) == [good]


def test_backbone_weights_of_paddle_are_checked_against_its_table(server, tmp_path, monkeypatch):
    from paddle.vision.models import resnet

    url = f"{server.address}/resnet50.pdparams"
    monkeypatch.setitem(resnet.model_urls, "resnet50", (url, hashlib.md5(OTHER).hexdigest()))
    with pytest.raises(DownloadError, match="has the md5"):
        imagenet_weights("paddle", resnet50_backbone, str(tmp_path), bar=False)
    monkeypatch.setitem(resnet.model_urls, "resnet50", (url, hashlib.md5(DATA).hexdigest()))
    found = imagenet_weights("paddle", resnet50_backbone, str(tmp_path), bar=False)
    assert found == str(tmp_path / "resnet50.pdparams") and content(found) == DATA


def test_deformable_backbones_have_the_weights_of_the_plain_ones(server, tmp_path, monkeypatch):
    monkeypatch.setitem(module.BACKBONES, "original", {"resnet101": f"{server.address}/resnet101_reducedfc.pth"})
    for backbone in (resnet101_backbone, resnet101_dcn_inter3_backbone):
        found = imagenet_weights("original", backbone, str(tmp_path), bar=False)
        assert os.path.basename(found) == backbone.path and content(found) == DATA
    assert len(server.seen) == 1


@pytest.mark.parametrize("source, backbone, name", [
    ("torchvision", darknet53_backbone, "darknet53"), ("paddle", darknet53_backbone, "darknet53"),
    ("original", vgg16_backbone, "VGG16"), ("original", resnet101_gn_backbone, "ResNet101_GN"),
    ("elsewhere", resnet50_backbone, "resnet50")])
def test_backbones_that_do_not_exist(tmp_path, source, backbone, name):
    with pytest.raises(DownloadError, match=f"no weights of {name} from '{source}'"):
        imagenet_weights(source, backbone, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def network_file(path, name):
    """A .pth as the original wrote it, of a network of the config, with made-up weights; returns them."""
    net = Yolact(get_config(name))
    weights = {key: tensor.numpy() for key, tensor in net.state_dict().items()}
    save_pth(str(path), weights)
    return weights


def test_a_name_becomes_a_converted_file_once(server, tmp_path, monkeypatch):
    """The download is what the author published; what is used afterwards carries its config."""
    monkeypatch.setitem(module.RELEASED, "yolact_resnet50", f"{server.address}/yolact_resnet50_54_800000.pth")
    weights = network_file(tmp_path / "published.pth", "yolact_resnet50")
    server.data = (tmp_path / "published.pth").read_bytes()
    server.etag = f'"{sha256(server.data)}"'
    folder = str(tmp_path / "weights")
    for _ in range(2):
        path = weights_file("yolact_resnet50", folder, get_config, bar=False)
        assert path == os.path.join(folder, "yolact_resnet50_54_800000.safetensors")
    assert len(server.seen) == 1
    assert sorted(os.listdir(folder)) == ["yolact_resnet50_54_800000.pth", "yolact_resnet50_54_800000.safetensors"]
    assert saved_config(path) == json.loads(json.dumps(get_config("yolact_resnet50").to_dict()))
    read = read_weights(path)
    assert read.keys() == weights.keys() and all((read[name] == weights[name]).all() for name in weights)


def test_the_pascal_network_is_converted_where_its_user_has_put_it(tmp_path):
    save_pth(str(tmp_path / "yolact_resnet50_pascal_54_120000.pth"), {"fpn.lat_layers.0.bias": np.ones(3, np.float32)})
    path = weights_file("yolact_resnet50_pascal", str(tmp_path), get_config)
    assert path == str(tmp_path / "yolact_resnet50_pascal_54_120000.safetensors")
    assert saved_config(path) == json.loads(json.dumps(get_config("yolact_resnet50_pascal").to_dict()))


def test_a_file_is_itself_and_a_missing_one_is_explained(tmp_path):
    path = tmp_path / "yolact_base"
    path.write_bytes(b"")
    assert weights_file(str(path), "nowhere", get_config) == str(path)
    with pytest.raises(WeightsError, match="no file weights/yolact_base_54_800000.pth.*yolact_base alone downloads it"):
        weights_file("weights/yolact_base_54_800000.pth", "nowhere", get_config)
    with pytest.raises(WeightsError, match="no file mine.pth.*one of yolact_base, yolact_im700"):
        weights_file("mine.pth", "nowhere", get_config)


def test_without_a_network_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    with socket.socket() as unused:  # nobody listens at its port
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/yolact_base_54_800000.pth"
    monkeypatch.setitem(module.RELEASED, "yolact_base", address)
    with pytest.raises(DownloadError, match=f"cannot reach.*{address} by hand and put it at .*_54_800000.pth"):
        weights_file("yolact_base", str(tmp_path), get_config, bar=False)
    assert os.listdir(tmp_path) == []


def test_the_addresses_are_well_formed():
    from paddle.vision.models.resnet import model_urls

    assert module.RELEASED["yolact_base"] == (
        "https://huggingface.co/dbolya/yolact-base/resolve/main/yolact_base_54_800000.pth")
    assert module.RELEASED["yolact_plus_resnet50"] == (
        "https://huggingface.co/dbolya/yolact-plus-resnet50/resolve/main/yolact_plus_resnet50_54_800000.pth")
    assert set(module.RELEASED) == {"yolact_base", "yolact_im700", "yolact_resnet50", "yolact_darknet53",
                                    "yolact_plus_base", "yolact_plus_resnet50"}
    for name, url in module.RELEASED.items():
        assert url.endswith(f"/{name}_54_800000.pth")
    urls = [*module.RELEASED.values(), *(url for table in module.BACKBONES.values() for url in table.values())]
    assert len(set(urls)) == 11
    for url in urls + [model_urls[depth][0] for depth in ("resnet50", "resnet101")]:
        assert re.fullmatch(r"https://[a-z.-]+(/[\w.-]+)+\.(pth|pdparams)", url), url
    for depth, backbone in (("resnet50", resnet50_backbone), ("resnet101", resnet101_backbone)):
        assert module.BACKBONES["original"][depth].endswith("/" + backbone.path)
        assert re.fullmatch(r"[0-9a-f]{32}", model_urls[depth][1])


# Through the commands, with the demo's network in the place of a released one.

@pytest.fixture
def published_demo(server, tmp_path, monkeypatch):
    """The shipped weights as a .pth that the server publishes."""
    path = tmp_path / "published.pth"
    save_pth(str(path), read_weights(str(REPO / "weights" / "yolact_demo.safetensors")))
    server.data = path.read_bytes()
    monkeypatch.setitem(module.RELEASED, "yolact_demo", f"{server.address}/yolact_demo_54_800000.pth")
    return server


def test_eval_by_name_downloads_and_draws(published_demo, demo_data, tmp_path, capsys):
    picture = sorted((demo_data / "val").iterdir())[0]
    for out in ("first.png", "second.png"):
        run("eval", ["--trained_model=yolact_demo", f"--save_folder={tmp_path / 'weights'}", "--cuda=False", "--no_bar",
                     f"--image={picture}:{tmp_path / out}"])
        assert "yolact_demo_54_800000.safetensors" in capsys.readouterr().out
    assert len(published_demo.seen) == 1
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    drawn, plain = (cv2.imread(str(path)) for path in (tmp_path / "first.png", picture))
    assert (drawn != plain).any()


def test_training_by_name_starts_from_the_published_weights(published_demo, demo_data, tmp_path, capsys):
    run("train", ["--config=yolact_demo_config", "--trained_model=yolact_demo", "--cuda=False", "--num_workers=0",
                  "--validation_epoch=-1", f"--save_folder={tmp_path / 'weights'}", "--no_log", "-o", "max_iter=1",
                  *places(demo_data)])
    printed = capsys.readouterr().out
    assert "0 of another shape skipped, 0 missing" in printed
    first = float(re.search(r"T: ([\d.]+)", printed)[1])
    assert first < 8, "a new network begins far above"


def test_training_downloads_the_backbone_it_is_told_to(server, demo_data, tmp_path, monkeypatch, capsys):
    backbone = Yolact(get_config("yolact_demo")).backbone
    path = tmp_path / "imagenet.pth"
    save_pth(str(path), {name: tensor.numpy() for name, tensor in backbone.state_dict().items()})
    server.data = path.read_bytes()
    name = get_config("yolact_demo").backbone.name
    monkeypatch.setitem(module.BACKBONES, "original", {name: f"{server.address}/imagenet.pth"})
    run("train", ["--config=yolact_demo_config", "--backbone_weights=original", "--cuda=False", "--num_workers=0",
                  "--validation_epoch=-1", f"--save_folder={tmp_path / 'weights'}", "--no_log", "-o", "max_iter=1",
                  *places(demo_data)])
    printed = capsys.readouterr().out
    count = len(backbone.state_dict())
    assert f"imagenet.pth: {count} tensors loaded, 0 of another shape skipped, 0 missing" in printed
    assert len(server.seen) == 1
