"""tools/export.py and utils/exported.py: what is written equals the network, what is refused, what is read back."""
import ast
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import pytest
from cli_runs import PLUS, TINY, weights_of

from data.config import cfg, get_config, yolact_base_config
from layers.mask_iou_net import FastMaskIoUNet
from layers.protonet import Upsample
from tools import export
from tools.demo_shapes import draw_scene
from utils import engines, exported, exporting, onnx_files, verification
from utils.exported import inference_config, load_exported
from utils.networks import load_network
from utils.predictor import load_predictor
from utils.runtime import UserError
from yolact import Yolact, build_detect

REPO = Path(__file__).resolve().parent.parent
DEMO = REPO / "weights" / "yolact_demo.safetensors"
MODEL_SUFFIX = ".pdmodel" if engines.PADDLE_2 else ".json"


def run(*arguments):
    export.main([str(argument) for argument in arguments])


def refused(words, *arguments):
    """The command must end with exit code 1 and one line that holds the words."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = str(caught.value)
    assert message.startswith("export.py: error: ") and "\n" not in message
    for word in words.split("|"):
        assert word in message, message


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The shipped weights, exported for Paddle Inference."""
    folder = tmp_path_factory.mktemp("export") / "demo"
    run(f"--trained_model={DEMO}", f"--out={folder}")
    return folder


@pytest.fixture
def copy(demo, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(str(demo), str(tmp_path / "copy")))


@pytest.fixture(scope="module")
def demo_net():
    return load_network(str(DEMO), get_config("yolact_demo"))


@pytest.fixture
def onnx_packages():
    try:
        onnx_files.check_packages()
    except UserError as error:
        pytest.skip(str(error))


def pictures(count, size):
    return np.random.RandomState(1).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def assert_same_outputs(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        difference = np.abs(found[name].numpy() - tensor.numpy()).max()
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert difference <= 1e-5 * np.abs(tensor.numpy()).max(), (name, difference)


# --- what is written --------------------------------------------------------------------------------------------


def test_an_exported_network_gives_what_the_network_gives(demo, demo_net):
    ready = load_exported(str(demo))
    assert ready.maskiou_net is None
    for count in (3, 1):
        images = pictures(count, 96)
        with paddle.no_grad():
            out = demo_net(paddle.to_tensor(images))
        found = ready.network(images)
        assert_same_outputs(found, out)
        detect = build_detect(yolact_base_config.copy(ready.description["config"]))
        for theirs, ours in zip(detect(found), build_detect(get_config("yolact_demo"))(out)):
            assert (theirs["class"].numpy() == ours["class"].numpy()).all()
            assert np.allclose(theirs["box"].numpy(), ours["box"].numpy(), atol=1e-4)


def test_a_predictor_of_an_export_finds_what_that_of_the_weights_finds(demo):
    picture = draw_scene(5, "val", 0, 96).image
    ours, theirs = (load_predictor(str(path), cuda=False, backend="paddle").detect(picture) for path in (DEMO, demo))
    assert len(ours.scores) > 0 and (ours.classes == theirs.classes).all() and (ours.boxes == theirs.boxes).all()
    assert np.allclose(ours.scores, theirs.scores, atol=1e-4)


def test_the_description_has_what_a_deployment_needs(demo):
    files = sorted(os.listdir(demo))
    text = (demo / "yolact.json").read_text(encoding="utf-8")
    found = json.loads(text)
    config = get_config("yolact_demo")
    assert set(files) - {"network.pdiparams.info"} == {f"network{MODEL_SUFFIX}", "network.pdiparams", "yolact.json"}
    assert found["class_names"] == ["circle", "square", "triangle"] and found["label_map"] is None
    assert found["picture"]["size"] == [96, 96] and found["picture"]["channel_order"] == "RGB"
    assert found["picture"]["means"] == [123.68, 116.78, 103.94] and found["picture"]["std"] == [58.4, 57.12, 57.38]
    for key in ("nms_top_k", "nms_conf_thresh", "nms_thresh", "max_num_detections", "mask_proto_crop"):
        assert found["detection"][key] == found["config"][key] == config[key]
    assert found["detection"]["class_scores"] == "softmax over the classes"
    model = found["models"]["network"]
    assert model["input"] == {"name": "images", "shape": ["batch", 3, 96, 96]}
    assert {part["name"]: part["shape"] for part in model["outputs"]} == {
        "loc": ["batch", 567, 4], "conf": ["batch", 567, 4], "mask": ["batch", 567, 16], "priors": [567, 4],
        "proto": ["batch", 48, 48, 16]}
    assert all(len(part["meaning"]) > 10 for part in model["outputs"])
    assert found["weights"] == {"file": DEMO.name, "sha256": hashlib.sha256(DEMO.read_bytes()).hexdigest()}
    assert set(found["files"]) == set(files) - {"yolact.json"}
    for name, told in found["files"].items():
        content = (demo / name).read_bytes()
        assert told == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    [compared] = found["compared"]
    assert compared["engine"] == f"Paddle {paddle.__version__}" and compared["precision"] == "fp32"
    assert set(compared["difference"]["network"]) == {"loc", "conf", "mask", "priors", "proto"}
    assert max(compared["difference"]["network"].values()) <= compared["tolerance"] == 1e-4
    assert found["versions"] == {"paddle": paddle.__version__}
    assert '"means": [123.68, 116.78, 103.94],' in text  # a list is one line


def test_no_file_names_a_place_on_this_machine(demo):
    places = [str(REPO), str(demo.parent), os.path.dirname(paddle.__file__), os.path.expanduser("~") + os.sep]
    for path in demo.iterdir():
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path


VARIANTS = {
    "scoring": ["use_mask_scoring=True", "share_prediction_module=False", "use_class_existence_loss=True"],
    "direct": ["mask_type='direct'", "mask_size=4", "backbone.transform.normalize=False",
               "backbone.transform.subtract_means=True"],
    "boxes": ["eval_mask_branch=False"],
    "grid": ["mask_proto_use_grid=True", "mask_proto_bias=True", "mask_proto_prototype_activation='sigmoid'"],
    "plus": PLUS,
}


@pytest.mark.parametrize("kind", list(VARIANTS))
def test_every_kind_of_network(tmp_path, kind):
    weights, config = weights_of(tmp_path, *VARIANTS[kind])
    arguments = f"--trained_model={weights}", f"--out={tmp_path / 'out'}"
    run(*arguments)
    ready, net = load_exported(str(tmp_path / "out")), load_network(str(weights), config)
    images = pictures(2, 48)
    with paddle.no_grad():
        out = net(paddle.to_tensor(images))
    assert_same_outputs(ready.network(images), out)
    described = ready.description["models"]["network"]["outputs"]
    assert [[2, *part["shape"][1:]] if part["shape"][0] == "batch" else part["shape"] for part in described] == [
        list(tensor.shape) for tensor in out.values()]
    if kind == "direct":
        assert ready.description["picture"]["std"] == [1, 1, 1]
        assert described[2]["meaning"].startswith("with mask_type 'direct' masks")
    assert (ready.maskiou_net is not None) == (kind == "plus")


def test_masks_are_rescored_as_by_the_network(tmp_path):
    weights, config = weights_of(tmp_path, *PLUS)
    run(f"--trained_model={weights}", f"--out={tmp_path / 'out'}")
    ready, net = load_exported(str(tmp_path / "out")), load_network(str(weights), config)
    assert isinstance(net.maskiou_net, FastMaskIoUNet)
    for count in (4, 1):
        masks = paddle.to_tensor(np.random.RandomState(2).rand(12, 12, count).astype(np.float32))
        classes = paddle.arange(count) % 3
        with paddle.no_grad():
            expected = net.maskiou_net.of_class(masks, classes).numpy()
        assert expected.any() and np.allclose(ready.maskiou_net.of_class(masks, classes).numpy(), expected, rtol=1e-5)


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path, demo):
    weights, _ = weights_of(tmp_path)
    out = tmp_path / "copy"
    shutil.copytree(str(demo), str(out))
    (out / "notes.txt").write_text("mine")
    refused("notes.txt, which is of no export|--out", f"--trained_model={weights}", f"--out={out}")
    (out / "notes.txt").unlink()
    (out / "old.onnx").write_text("listed")
    description = json.loads((out / "yolact.json").read_text())
    description["files"]["old.onnx"] = {}
    (out / "yolact.json").write_text(json.dumps(description))
    os.symlink("copy", tmp_path / "link")
    run(f"--trained_model={weights}", f"--out={tmp_path / 'link'}{os.sep}")
    assert load_exported(str(out)).description["config"]["max_size"] == 48
    assert not (out / "old.onnx").exists() and not out.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["copy", "link", "tiny.json", "tiny.pdparams"]


def test_the_verification_picture(tmp_path, demo):
    assert json.loads((demo / "yolact.json").read_text())["compared"][0]["picture"] == "a drawn picture"
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "readme.txt").write_text("no picture")
    assert verification.verification_picture(None, str(tmp_path))[0] == "a drawn picture"
    cv2.imwrite(str(tmp_path / "b.png"), np.full((5, 7, 3), 9, np.uint8))
    name, picture = verification.verification_picture(None, str(tmp_path))
    assert name == "b.png" and picture.shape == (5, 7, 3)
    assert verification.verification_picture(str(tmp_path / "b.png"), "gone")[0] == "b.png"
    drawn = verification.drawn_picture()
    assert drawn.dtype == np.uint8 and drawn.std() > 30 and (drawn == verification.drawn_picture()).all()


# --- the config of an export ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [
    [], ["use_focal_loss=True", "use_sigmoid_focal_loss=True"], ["use_focal_loss=True", "use_objectness_score=True"],
    ["use_mask_scoring=True", "nms_top_k=7", "nms_thresh=0.3", "max_num_detections=9"]])
def test_the_part_of_a_config_detects_as_the_whole(overrides):
    config = get_config("yolact_demo")
    config = config.copy(config.parse_overrides([*TINY, "nms_conf_thresh=0.2", *overrides]))
    part = yolact_base_config.copy(json.loads(json.dumps(inference_config(config))))
    paddle.seed(3)
    net = Yolact(config)
    net.eval()
    with paddle.no_grad():
        out = net(paddle.to_tensor(pictures(1, 48)))
    out["conf"] = paddle.to_tensor(np.random.RandomState(0).normal(0, 3, out["conf"].shape).astype(np.float32))
    for use_fast_nms in (True, False):
        whole, other = (build_detect(c, use_fast_nms)(out)[0] for c in (config, part))
        assert len(whole["score"]) > 3
        for key, tensor in whole.items():
            assert np.array_equal(tensor.numpy(), other[key].numpy()), key


def test_a_label_map_keeps_its_numbers_and_may_be_absent():
    for name in ("yolact_base", "yolact_resnet50_pascal", "yolact_darknet53", "yolact_plus_base"):
        config = get_config(name)
        part = yolact_base_config.copy(json.loads(json.dumps(inference_config(config))))
        assert part.dataset.label_map == config.dataset.label_map
        assert part.dataset.class_names == config.dataset.class_names and part.num_classes == config.num_classes
        assert part.backbone.transform == config.backbone.transform and part.maskiou_net == config.maskiou_net


def _reads(tree, name):
    """Attributes of the variable `name` that code reads."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == name}


def test_what_detection_reads_of_a_config_is_in_the_part():
    detect = next(node for node in ast.parse((REPO / "yolact.py").read_text()).body
                  if isinstance(node, ast.FunctionDef) and node.name == "build_detect")
    predictor = ast.parse((REPO / "utils" / "predictor.py").read_text())
    read = _reads(detect, "cfg") | _reads(predictor, "config")
    assert {"nms_top_k", "max_size", "rescore_mask", "mask_proto_crop"} <= read, "where do these places read them now?"
    part = inference_config(cfg)
    lacking = read - {"conf_mode"} - set(part)
    assert not lacking, f"not in utils.exported.CONFIG_KEYS: {lacking}"
    assert {"use_focal_loss", "use_sigmoid_focal_loss", "use_objectness_score"} <= set(part)  # of conf_mode


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_model_that_is_not_the_network_is_refused(tmp_path, monkeypatch):
    weights, _ = weights_of(tmp_path)
    arguments = f"--trained_model={weights}", f"--out={tmp_path / 'out'}"
    run(*arguments)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def nearest(self, x):
        return paddle.nn.functional.interpolate(x, size=[side * 2 for side in x.shape[2:]], mode="nearest")

    def write_another(*arguments):
        monkeypatch.setattr(Upsample, "forward", nearest)
        return write_models(*arguments)

    write_models = exporting.write_models
    monkeypatch.setattr(exporting, "write_models", write_another)
    refused(f"the network in Paddle {paddle.__version__}, fp32 differs|in proto|refused", *arguments)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["out", "tiny.json", "tiny.pdparams"]


def test_differences():
    ones, difference = np.ones((2, 3), np.float32), verification.relative_difference
    assert difference(ones, ones) == 0 and difference(ones, ones * 4) == 0.75
    assert difference(ones * np.float32([0, 1, 1]), ones) == pytest.approx(3 ** -0.5)
    assert difference(ones, ones[:1]) == float("inf")
    assert difference(ones * np.nan, ones) == float("inf")
    assert difference(ones, ones * 0) > 1 and difference(ones * 0, ones * 0) == 0


@pytest.mark.parametrize("precision, error, alone, allowed", [
    ("fp32", 0.9e-4, False, True), ("fp32", 1.1e-4, False, False), ("fp32", 1.1e-4, True, False),
    ("fp32", float("nan"), False, False), ("bf16", 0.09, False, True), ("bf16", 0.11, False, False)])
def test_how_far_a_model_may_be_from_the_network(monkeypatch, precision, error, alone, allowed):
    """Also when only a single picture is wrong, and not when it comes in a batch."""
    reference = np.random.RandomState(0).randn(2, 50).astype(np.float64)

    def network(images):
        wrong = error if not alone or len(images) == 1 else 0.0
        return {"conf": paddle.to_tensor(reference[:len(images)] * (1 + wrong))}

    ready = SimpleNamespace(engine="an engine", network=network)
    monkeypatch.setattr(verification, "load_exported", lambda *args, **kwargs: ready)
    cases, told = {"network": (np.zeros((2, 3)), {"conf": paddle.to_tensor(reference)})}, []
    if allowed:
        found = verification.verify("folder", "openvino", cases, precision, told.append)
        assert found["network"]["conf"] == pytest.approx(error, rel=1e-6) and len(told) == 1
    else:
        with pytest.raises(UserError, match="network in an engine differs from the network itself in conf.*is refused"):
            verification.verify("folder", "openvino", cases, precision, told.append)


def test_a_mask_iou_net_that_differs_is_refused(tmp_path, monkeypatch):
    weights, _ = weights_of(tmp_path, *PLUS)
    original = exporting.reference_cases

    def other(*arguments):
        cases = original(*arguments)
        masks, out = cases["maskiou_net"]
        return {**cases, "maskiou_net": (masks, {"iou": out["iou"] + 0.01})}

    monkeypatch.setattr(exporting, "reference_cases", other)
    refused(f"the maskiou_net in Paddle {paddle.__version__}, fp32 differs|in iou", f"--trained_model={weights}",
            f"--out={tmp_path / 'out'}")
    assert sorted(os.listdir(tmp_path)) == ["tiny.json", "tiny.pdparams"]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    def spoil(state):
        state["prediction_layers.0.bbox_layer.bias"] = paddle.full([12], float("nan"))

    weights, _ = weights_of(tmp_path, change=spoil)
    refused("values that are not finite (loc)", f"--trained_model={weights}", f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    weights, _ = weights_of(tmp_path)

    def fail(*args, **kwargs):
        raise RuntimeError("\n\n--- C++ ---\nUnimplementedError: no such operator.\n  [Hint: none]")

    monkeypatch.setattr(paddle.jit, "save", fail)
    refused("cannot make a static graph of the network (UnimplementedError: no such operator.)",
            f"--trained_model={weights}", f"--out={tmp_path / 'out'}")
    assert sorted(os.listdir(tmp_path)) == ["tiny.json", "tiny.pdparams"]


def test_wrong_arguments(tmp_path):
    (tmp_path / "file").write_text("")
    trained = f"--trained_model={DEMO}"
    refused("gone.pth|--trained_model", f"--trained_model={tmp_path / 'gone.pth'}")
    refused("yolact_dmo|yolact_demo_config", trained, "--config=yolact_dmo")
    refused("nms_tresh|nms_thresh", trained, "-o", "nms_tresh=0.4")
    refused("cannot write into", trained, f"--out={tmp_path / 'file' / 'out'}")
    refused("is a file; choose another --out", trained, f"--out={tmp_path / 'file'}")
    refused("file, which is of no export", trained, f"--out={tmp_path}")
    out = f"--out={tmp_path / 'out'}"
    refused("gone.jpg cannot be read", trained, out, f"--image={tmp_path / 'gone.jpg'}")
    refused("no picture", trained, out, f"--image={tmp_path / 'file'}")
    refused("preserve_aspect_ratio|for squares", trained, out, "-o", "preserve_aspect_ratio=True")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("missing, told", [("paddle2onnx", "paddle2onnx is not"), ("onnx", "onnx is not"),
                                           ("onnxruntime openvino", "neither openvino nor onnxruntime is")])
def test_onnx_without_its_packages_names_those_that_fit(tmp_path, monkeypatch, missing, told):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    monkeypatch.setattr(onnx_files, "is_installed", lambda name: name not in missing.split())
    refused(f"{told} installed|{onnx_files.PADDLE2ONNX}|{paddle.__version__}|--format=paddle",
            f"--trained_model={DEMO}", f"--out={tmp_path / 'out'}", "--format=both")
    assert not (tmp_path / "out").exists()


def test_onnx_with_a_paddle2onnx_of_another_time(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(onnx_files, "is_installed", lambda name: True)
    for version, old_fits, new_fits in (("1.3.1", True, False), ("2.0.1", False, False), ("2.1.0", False, True)):
        monkeypatch.setattr(onnx_files.importlib.metadata, "version", lambda name, version=version: version)
        if old_fits if engines.PADDLE_2 else new_fits:
            onnx_files.check_packages()
        else:
            refused(f"paddle2onnx is {version}|{onnx_files.PADDLE2ONNX}", f"--trained_model={DEMO}", "--format=onnx",
                    f"--out={tmp_path / 'out'}")


# --- what is read back ------------------------------------------------------------------------------------------


def unreadable(folder, *words):
    with pytest.raises(UserError) as caught:
        load_exported(str(folder))
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_folders_that_are_no_export(tmp_path):
    unreadable(tmp_path / "gone", "there is no folder", "gone")
    unreadable(tmp_path, "there is no", "yolact.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"yolact-export"', b"\xff\xfe"])
def test_a_damaged_description(copy, text):
    (copy / "yolact.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    unreadable(copy, "yolact.json", "export again")


@pytest.mark.parametrize("path", [
    ["config"], ["models"], ["files"], ["models", "network"], ["models", "network", "paddle"],
    ["models", "network", "outputs"], ["models", "network", "input", "shape"],
    ["models", "network", "paddle", "params"],
    ["files", "network.pdiparams"], ["files", "network.pdiparams", "sha256"]])
def test_a_description_that_lacks_something(copy, path):
    description = json.loads((copy / "yolact.json").read_text())
    group = description
    for key in path[:-1]:
        group = group[key]
    for value in ("delete", None):
        if value == "delete":
            del group[path[-1]]
        else:
            group[path[-1]] = value
        (copy / "yolact.json").write_text(json.dumps(description))
        unreadable(copy, "export again")


def test_a_newer_description(copy):
    description = json.loads((copy / "yolact.json").read_text())
    description["format_version"] += 1
    (copy / "yolact.json").write_text(json.dumps(description))
    unreadable(copy, "newer version", "update the code")


@pytest.mark.parametrize("name", [f"network{MODEL_SUFFIX}", "network.pdiparams"])
def test_a_cut_changed_or_missing_model_file(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-100])
    unreadable(copy, name, "damaged", "copy it again")
    (copy / name).write_bytes(content[:-100] + b"x" * 100)
    unreadable(copy, name, "damaged")
    (copy / name).unlink()
    unreadable(copy, name, "there is no", "copy the whole folder")


def test_a_model_that_paddle_cannot_read(copy, monkeypatch):
    def fail(config):
        raise ValueError("\n----\nInvalidArgumentError: operator x is not known.\n  [Hint]")

    monkeypatch.setattr(engines.inference, "create_predictor", fail)
    unreadable(copy, "cannot read", f"network{MODEL_SUFFIX}", "InvalidArgumentError: operator x")


@pytest.mark.skipif(engines.PADDLE_2, reason="writes .pdmodel, which every version reads")
def test_paddle_2_is_kept_from_crashing_on_a_model_of_paddle_3(copy, monkeypatch):
    monkeypatch.setattr(engines, "PADDLE_2", True)
    unreadable(copy, "network.json", "written by PaddlePaddle 3")


def test_a_picture_of_another_size(demo):
    network = load_exported(str(demo)).network
    for shape in ((1, 3, 96, 95), (3, 96, 96), (0, 3, 96, 96)):
        with pytest.raises(ValueError, match=r"takes \['batch', 3, 96, 96\], not"):
            network(np.zeros(shape, np.float32))


def test_onnx_alone_needs_an_engine(copy, monkeypatch):
    description = json.loads((copy / "yolact.json").read_text())
    (copy / "network.onnx").write_bytes(b"onnx")
    del description["models"]["network"]["paddle"]
    description["models"]["network"]["onnx"] = {"model": "network.onnx"}
    description["files"]["network.onnx"] = {"sha256": hashlib.sha256(b"onnx").hexdigest()}
    (copy / "yolact.json").write_text(json.dumps(description))
    monkeypatch.setattr(exported, "is_installed", lambda backend: False)
    monkeypatch.setattr(engines, "is_installed", lambda backend: False)
    unreadable(copy, "onnxruntime is not installed", "requirements-fast.txt")


# --- ONNX -------------------------------------------------------------------------------------------------------


def test_onnx_gives_what_the_network_gives(tmp_path, onnx_packages, demo_net):
    import onnx

    run(f"--trained_model={DEMO}", f"--out={tmp_path / 'out'}", "--format=both")
    ready = load_exported(str(tmp_path / "out"), backend="onnxruntime")
    assert isinstance(ready.network.run, engines.OnnxRuntimeModel)
    images = pictures(3, 96)
    with paddle.no_grad():
        assert_same_outputs(ready.network(images), demo_net(paddle.to_tensor(images)))
    compared = [record["engine"].split()[0] for record in ready.description["compared"]]
    assert compared == ["Paddle", *(engines.version_of(name).split()[0] for name in onnx_files.engines_for(False))]
    graph = onnx.load(str(tmp_path / "out" / "network.onnx")).graph
    shapes = {value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
              for value in [*graph.input, *graph.output]}
    model = ready.description["models"]["network"]
    assert shapes == {part["name"]: part["shape"] for part in [model["input"], *model["outputs"]]}


def test_onnx_alone_with_deformable_convolutions_and_rescored_masks(tmp_path, onnx_packages, monkeypatch):
    weights, config = weights_of(tmp_path, *PLUS)
    out = tmp_path / "out"
    arguments = f"--trained_model={weights}", f"--out={out}", "--format=onnx"
    if engines.PADDLE_2:
        refused("deformable convolution needs opset 19|--format=paddle", *arguments)
        return
    with monkeypatch.context() as context:
        context.setattr(onnx_files, "ENGINES", ("onnxruntime",))
        context.setattr(onnx_files.importlib.metadata, "version", lambda name: "1.24.4")
        assert onnx_files.engines_for(deformable=False) and not onnx_files.engines_for(deformable=True)
        context.setattr(onnx_files, "engines_for", lambda deformable: [])
        with pytest.raises(UserError, match="needs openvino, or onnxruntime 1.25"):
            onnx_files.check_deformable()
    if not onnx_files.engines_for(deformable=True):
        pytest.skip("no engine for deformable convolution")
    run(*arguments)
    assert sorted(os.listdir(out)) == ["maskiou_net.onnx", "network.onnx", "yolact.json"]
    ready, net = load_exported(str(out)), load_network(str(weights), config)
    assert ready.description["models"]["network"]["onnx_opset"] == 19
    images, classes = pictures(2, 48), paddle.to_tensor([2, 0, 1])
    masks = paddle.to_tensor(np.random.RandomState(2).rand(12, 12, 3).astype(np.float32))
    with paddle.no_grad():
        assert_same_outputs(ready.network(images), net(paddle.to_tensor(images)))
        expected = net.maskiou_net.of_class(masks, classes).numpy()
    assert np.allclose(ready.maskiou_net.of_class(masks, classes).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_what_paddle2onnx_cannot_convert_is_one_line(tmp_path, onnx_packages, monkeypatch):
    monkeypatch.setattr(onnx_files, "CONVERT", "import os\nprint('[ERROR] no rule for x', flush=True)\nos.abort()")
    refused("cannot convert the network ([ERROR] no rule for x)|--format=paddle", f"--trained_model={DEMO}",
            f"--out={tmp_path / 'out'}", "--format=onnx")
    assert os.listdir(tmp_path) == []


def test_onnx_that_no_engine_can_read(tmp_path, onnx_packages, monkeypatch):
    monkeypatch.setattr(onnx_files, "tidy_onnx", lambda path, model: Path(path).write_bytes(b"no model"))
    refused("onnxruntime|cannot read|network.onnx", f"--trained_model={DEMO}", f"--out={tmp_path / 'out'}",
            "--format=onnx")
    assert os.listdir(tmp_path) == []


# --- the command ------------------------------------------------------------------------------------------------


def test_as_a_command_from_another_folder(tmp_path):
    weights, _ = weights_of(tmp_path)

    def command(*arguments):
        # Not the tests' number of threads, about which Paddle prints a warning.
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.run([sys.executable, str(REPO / "tools" / "export.py"), *arguments], cwd=tmp_path,
                              env=environment, capture_output=True, text=True, timeout=120)

    done = command("--trained_model", weights.name)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for words in ("yolact_demo from tiny.pdparams", "making a static graph of the network ...", "network.proto",
                  f"written: {os.path.join('exported', 'yolact_demo', 'yolact.json')}"):
        assert words in done.stdout, done.stdout
    assert load_exported(str(tmp_path / "exported" / "yolact_demo")).description["name"] == "yolact_demo"
    done = command("--trained_model=gone.pth")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for words in ("yolact.json", "--format", "--image", "requirements-fast.txt", "1e-4"):
        assert words in text
