"""utils/engines.py and utils/networks.py: what runs a network, which is taken, what they keep beside the weights."""
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
from cli_runs import PLUS, assert_refused, eval_arguments, evaluate, load, weights_of

from data.config import get_config
from tools.demo_shapes import draw_scene
from utils import engines, networks, onnx_files
from utils.engines import usable_precision
from utils.exported import Exported, load_exported
from utils.networks import engine_folder, load_network, open_network
from utils.predictor import Predictor, load_predictor
from utils.runtime import UserError
from utils.verification import relative_difference
from yolact import Yolact

REPO = Path(__file__).resolve().parent.parent
ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def packages():
    try:
        onnx_files.check_packages()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(params=ENGINES)
def engine(request, packages):
    """Each engine that is installed."""
    if not engines.is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def openvino(packages):
    return pytest.importorskip("openvino")


@pytest.fixture
def bf16(openvino):
    if not engines.has_bf16():
        pytest.skip("this processor has no bf16 units")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A copy of the shipped weights, beside which engines may write."""
    folder = tmp_path_factory.mktemp("demo")
    path = folder / "yolact_demo.safetensors"
    path.write_bytes((REPO / "weights" / path.name).read_bytes())
    return str(path)


def pictures(count, size=96):
    return [draw_scene(5, "val", number, size).image for number in range(count)]


def outputs(net, images):
    if isinstance(net, Exported):
        return {name: tensor.numpy() for name, tensor in net.network(images).items()}
    with paddle.no_grad():
        return {name: tensor.numpy() for name, tensor in net(paddle.to_tensor(images)).items()}


def noise(count, size):
    return np.random.RandomState(1).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def differences(found, expected):
    assert list(found) == list(expected)
    return {name: relative_difference(found[name], array) for name, array in expected.items()}


# --- each engine is the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, None])
def test_an_engine_gives_what_the_network_gives(demo, engine, streams):
    config = get_config("yolact_demo")
    net, told = open_network(demo, config, engine, streams=streams)
    assert isinstance(net, Exported) and told == f"{engines.version_of(engine)}, fp32" == net.engine
    eager = load_network(demo, config)
    for count in (1, 3, 2):
        images = noise(count, 96)
        assert max(differences(outputs(net, images), outputs(eager, images)).values()) < 1e-5


def test_deformable_convolutions_with_biases_and_re_scored_masks(tmp_path, engine):
    """Offsets that reach far outside of the map, biases that are not zero."""
    def change(state):
        for name in state:
            if "conv_offset_mask.bias" in name:
                state[name] = paddle.randn(state[name].shape) * 3
            elif name.endswith("conv2.bias"):
                state[name] = paddle.randn(state[name].shape)

    if engines.PADDLE_2 or engine not in onnx_files.engines_for(deformable=True):
        pytest.skip("this engine, or this Paddle's converter, has no deformable convolution")
    weights, config = weights_of(tmp_path, *PLUS, change=change)
    net, _ = open_network(str(weights), config, engine)
    eager, images = load_network(str(weights), config), noise(2, 48)
    assert any(name.endswith("conv2.bias") for name in eager.state_dict())
    assert max(differences(outputs(net, images), outputs(eager, images)).values()) < 1e-5
    masks = paddle.to_tensor(np.random.RandomState(2).rand(12, 12, 4).astype(np.float32))
    classes = paddle.to_tensor([2, 0, 1, 1])
    for count in (4, 1):
        with paddle.no_grad():
            expected = eager.maskiou_net.of_class(masks[..., :count], classes[:count]).numpy()
        found = net.maskiou_net.of_class(masks[..., :count], classes[:count]).numpy()
        assert expected.any() and np.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_bf16_is_another_precision_and_near(demo, bf16):
    images, config = noise(2, 96), get_config("yolact_demo")
    net, told = open_network(demo, config, "auto", "bf16")
    exact = outputs(load_network(demo, config), images)
    found = differences(outputs(net, images), exact)
    assert told.startswith("OpenVINO ") and told.endswith(", bf16")
    assert found.pop("priors") == 0
    assert all(1e-4 < difference < 0.05 for difference in found.values()), found
    assert all(array.dtype == np.float32 for array in outputs(net, images).values())


def test_threads_may_be_the_first_to_run_an_engine(demo, openvino):
    """OpenVINO's binding hangs if two threads make their first arrays at once."""
    open_network(demo, get_config("yolact_demo"), "openvino")
    code = f"""
import sys, threading
sys.path.insert(0, {str(REPO)!r})
from utils.networks import open_network
from data.config import get_config
import numpy as np
net, _ = open_network({demo!r}, get_config("yolact_demo"), "openvino", streams=None)
start = threading.Barrier(4)
def run():
    start.wait()
    net.network(np.zeros((1, 3, 96, 96), np.float32))
threads = [threading.Thread(target=run) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("ended\n"), done.stderr


def test_signals_are_handled_when_some_networks_are_gone(demo, openvino):
    """OpenVINO's cores set the stack of signals; when the first of two went first, Ctrl-C crashed the process."""
    open_network(demo, get_config("yolact_demo"), "openvino")
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(REPO)!r})
from utils.networks import open_network
from data.config import get_config
nets = [open_network({demo!r}, get_config("yolact_demo"), "openvino") for _ in range(3)]
while nets:
    del nets[0]
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("ended")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("ended\n"), (done.returncode, done.stderr)


def test_several_threads_get_their_own_results(demo, engine):
    net, _ = open_network(demo, get_config("yolact_demo"), engine, streams=None)
    images = noise(8, 96)
    expected = [outputs(net, images[number:number + 1]) for number in range(8)]
    found = [None] * 8

    def run(number):
        found[number] = outputs(net, images[number:number + 1])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in zip(found, expected):
        assert max(differences(ours, theirs).values()) < 1e-6
    assert differences(expected[0], expected[1])["conf"] > 0.01


# --- what lies beside the weights -------------------------------------------------------------------------------


def built(capsys):
    """Whether something was built, or compared, since the last call."""
    printed = capsys.readouterr().out
    return "built" if "building" in printed else "compared" if "comparing" in printed else None


def test_it_is_built_once_and_again_when_weights_or_network_change(tmp_path, engine, capsys):
    weights, config = weights_of(tmp_path)
    path = str(weights)
    expected = outputs(load_network(path, config), noise(1, 48))

    def opened(config):
        net, _ = open_network(path, config, engine)
        return outputs(net, noise(1, config.max_size))

    assert max(differences(opened(config), expected).values()) < 1e-5 and built(capsys) == "built"
    assert sorted(os.listdir(tmp_path)) == ["tiny.json", "tiny.pdparams", "tiny.pdparams.engine"]
    opened(config)
    assert built(capsys) is None
    opened(config.copy({"nms_thresh": 0.3, "max_num_detections": 7, "lr": 1.0}))  # nothing of the network
    assert built(capsys) is None
    assert "proto" not in opened(config.copy({"eval_mask_branch": False})) and built(capsys) == "built"
    assert "proto" in opened(config) and built(capsys) is None  # each has a folder of its own
    larger = config.copy({"max_size": 64})
    assert opened(larger)["conf"].shape != expected["conf"].shape and built(capsys) == "built"
    state = paddle.load(path)
    state["prediction_layers.0.conf_layer.bias"] += 1
    paddle.save(state, path)
    changed = opened(larger)
    assert built(capsys) == "built"
    assert max(differences(changed, outputs(load_network(path, larger), noise(1, 64))).values()) < 1e-5


def test_another_engine_or_precision_is_compared_before_its_first_use(tmp_path, bf16, capsys):
    weights, config = weights_of(tmp_path)
    open_network(str(weights), config, "openvino")
    assert built(capsys) == "built"
    for _ in range(2):
        open_network(str(weights), config, "openvino", "bf16")
    assert capsys.readouterr().out.count("comparing") == 1
    described = json.loads((tmp_path / "tiny.pdparams.engine" / "yolact.json").read_text())
    assert [record["precision"] for record in described["compared"]] == ["fp32", "bf16"]
    assert all(record["processor"] == engines.processor() for record in described["compared"])
    described["compared"][0]["engine"] = "OpenVINO of another day"
    (tmp_path / "tiny.pdparams.engine" / "yolact.json").write_text(json.dumps(described))
    open_network(str(weights), config, "openvino")
    assert built(capsys) == "compared"


@pytest.mark.parametrize("damage", ["cut", "gone", "text", "no text", "one bit", "records"])
def test_damaged_files_are_made_again(tmp_path, openvino, damage, capsys):
    engine = "openvino"
    weights, config = weights_of(tmp_path)
    open_network(str(weights), config, engine)
    folder = Path(engine_folder(str(weights), config))
    capsys.readouterr()
    text, model = folder / "yolact.json", folder / "network.onnx"
    content = model.read_bytes()
    if damage == "text":
        text.write_text("{")
    elif damage == "records":
        text.write_text(json.dumps({**json.loads(text.read_text()), "compared": [1]}))
    elif damage == "no text":
        text.unlink()
        with pytest.raises(UserError, match="holds network.onnx, which is of no export; remove it"):
            open_network(str(weights), config, engine)
        model.unlink()
    elif damage == "gone":
        model.unlink()
    else:
        model.write_bytes(content[:-100] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    open_network(str(weights), config, engine)
    assert built(capsys) == "built"


def test_a_folder_that_cannot_be_written(tmp_path, engine, caplog, monkeypatch):
    """A named engine is refused in one line; auto goes on in Paddle."""
    weights, config = weights_of(tmp_path)
    folder = tmp_path / "tiny.pdparams.engine"
    folder.write_text("a file is in the way")
    with pytest.raises(UserError, match="tiny.pdparams.engine"):
        open_network(str(weights), config, engine)
    net, told = open_network(str(weights), config)
    assert isinstance(net, Yolact) and told == f"{engines.version_of('paddle')}, fp32"
    assert "no engine but Paddle" in caplog.text and folder.read_text() == "a file is in the way"


# --- which engine is taken --------------------------------------------------------------------------------------


def installed(*there):
    return lambda backend: backend == "paddle" or backend in there


def test_auto_takes_the_fastest_that_is_installed(demo, engine, monkeypatch):
    for module in (engines, networks):
        monkeypatch.setattr(module, "is_installed", installed(engine))
    net, told = open_network(demo, get_config("yolact_demo"))
    assert isinstance(net, Exported) and told.startswith(engines.version_of(engine))


def test_without_engines_auto_is_paddle(demo, monkeypatch, caplog):
    monkeypatch.setattr(networks, "is_installed", installed())
    net, told = open_network(demo, get_config("yolact_demo"))
    assert isinstance(net, Yolact) and told.startswith("Paddle ") and not caplog.text


def test_auto_tells_what_is_missing_to_make_the_files_unless_they_are_there(tmp_path, openvino, monkeypatch, caplog):
    def missing():
        raise UserError("paddle2onnx is missing")

    weights, config = weights_of(tmp_path)
    monkeypatch.setattr(networks, "is_installed", installed("openvino"))
    with monkeypatch.context() as context:
        context.setattr(networks, "check_packages", missing)
        assert isinstance(open_network(str(weights), config)[0], Yolact)
        assert "no engine but Paddle: paddle2onnx is missing" in caplog.text
        with pytest.raises(UserError, match="paddle2onnx is missing"):
            open_network(str(weights), config, "openvino")
        open_network(str(weights), config, "paddle")
    open_network(str(weights), config)
    monkeypatch.setattr(networks, "check_packages", missing)
    assert isinstance(open_network(str(weights), config)[0], Exported)


def test_what_no_engine_can_run_is_told_once_before_anything_is_loaded(tmp_path, openvino, monkeypatch, caplog, capsys):
    weights, config = weights_of(tmp_path)
    loaded = []
    monkeypatch.setattr(networks, "load_network", lambda *arguments: loaded.append(arguments))
    open_network(str(weights), config.copy({"preserve_aspect_ratio": True}))
    assert len(caplog.records) == 1 and "no fixed shape" in caplog.text
    assert len(loaded) == 1 and built(capsys) is None


def test_a_refused_engine_leaves_paddle_its_threads(tmp_path, openvino, monkeypatch):
    """And one that is used gets them, as Paddle's would wait for work in its way."""
    asked, wrong = [], engines.OpenVinoModel.__call__
    weights, config = weights_of(tmp_path)
    monkeypatch.setattr("utils.predictor.set_threads", asked.append)
    net, _ = open_network(str(weights), config, "openvino")
    assert asked == []
    Predictor(net, config)
    assert asked == [1]
    monkeypatch.setattr(engines.OpenVinoModel, "__call__", lambda self, array: wrong(self, array)[::-1])
    monkeypatch.setattr(networks, "is_installed", installed("openvino"))
    weights.unlink()
    weights, config = weights_of(tmp_path, "max_size=64")
    net, _ = open_network(str(weights), config)
    assert isinstance(net, Yolact)
    Predictor(net, config)
    assert asked == [1]


def test_an_engine_that_cannot_be_imported_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    assert not engines.is_installed("openvino") and engines.is_installed("paddle")


def test_an_export_has_no_bf16_on_a_gpu(demo, openvino):
    open_network(demo, get_config("yolact_demo"), "openvino")
    folder = engine_folder(demo, get_config("yolact_demo"))
    with pytest.raises(UserError, match="has no --precision=bf16 on a GPU"):
        load_exported(folder, use_gpu=True, precision="bf16")


def test_a_full_disk_is_one_line(tmp_path, openvino, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    weights, config = weights_of(tmp_path)
    monkeypatch.setattr(networks, "export", full)
    with pytest.raises(UserError, match=r"engine cannot be written \(No space left on device\); mend that"):
        open_network(str(weights), config, "openvino")


def test_an_engine_that_computes_something_else_is_refused(tmp_path, engine, monkeypatch, caplog):
    """A product that is silently wrong: auto warns and takes the next."""
    class Wrong(engines.MODELS[engine]):
        def __call__(self, array):
            return [output * 1.001 for output in super().__call__(array)]

    weights, config = weights_of(tmp_path)
    monkeypatch.setitem(engines.MODELS, engine, Wrong)
    with pytest.raises(UserError, match="differs from the network itself in loc.*refused"):
        open_network(str(weights), config, engine)
    assert not os.path.exists(engine_folder(str(weights), config))
    monkeypatch.setattr(networks, "is_installed", installed(engine))
    net, told = open_network(str(weights), config)
    assert isinstance(net, Yolact) and told.startswith("Paddle ")
    assert f"{engine} is left out" in caplog.text and "differs" in caplog.text


def test_what_is_not_installed_is_told_with_the_remedy(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "is_installed", installed())
    for options, words in ((["--backend=openvino"], "openvino is not installed; pip install -r requirements-fast.txt"),
                           (["--precision=bf16"], "openvino is not installed; pip install -r requirements-fast.txt"),
                           (["--backend=onnxruntime"], "onnxruntime is not installed")):
        arguments = [part for part in eval_arguments(trained, tmp_path) if part != "--backend=paddle"]
        assert_refused("eval", [*arguments, *options], words)


def test_precisions(monkeypatch, caplog):
    monkeypatch.setattr(engines, "is_installed", installed("openvino"))
    monkeypatch.setattr(engines, "has_bf16", lambda: True)
    for backend in ("auto", "paddle", "onnxruntime", "openvino"):
        assert usable_precision(backend, "fp32") == (backend, "fp32")
    for backend in ("auto", "openvino"):
        assert usable_precision(backend, "bf16") == ("openvino", "bf16")
    for backend in ("paddle", "onnxruntime"):
        with pytest.raises(UserError, match=f"{backend} has no --precision=bf16 on a CPU; use --backend=openvino"):
            usable_precision(backend, "bf16")
    assert not caplog.records
    monkeypatch.setattr(engines, "has_bf16", lambda: False)
    assert usable_precision("auto", "bf16") == ("openvino", "fp32")
    assert caplog.records[0].levelno == logging.WARNING and "has no bf16 units" in caplog.text


def test_a_gpu_is_paddle_s_and_its_bf16_mixed_precision(demo, monkeypatch):
    """Without a GPU to see it: the network is wrapped, runs inside auto_cast, and gives float32."""
    asked = []
    real = paddle.amp.auto_cast
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **options: asked.append(options) or real(enable=False))
    config, images = get_config("yolact_demo"), noise(1, 96)
    net, told = open_network(demo, config, "auto", "bf16", use_gpu=True)
    assert isinstance(net, networks.MixedPrecision) and told.startswith("Paddle ") and "bf16" in told
    assert max(differences(outputs(net, images), outputs(load_network(demo, config), images)).values()) == 0
    assert asked == [{"dtype": "bfloat16"}] and net.maskiou_net is None
    net, _ = open_network(demo, config, "auto", use_gpu=True)
    assert isinstance(net, Yolact)


# --- the commands -----------------------------------------------------------------------------------------------


def test_a_data_set_has_the_same_detections_in_every_engine(trained, tmp_path, engine):
    arguments = ["--output_coco_json"]
    evaluate(trained, tmp_path / "paddle", *arguments)
    printed = evaluate(trained, tmp_path / "engine", *arguments, f"--backend={engine}")
    assert f", in {engines.version_of(engine)}, fp32" in printed
    for kind in ("bbox", "mask"):
        ours, theirs = (load(tmp_path / name, f"{kind}_detections.json") for name in ("engine", "paddle"))
        assert len(ours) == len(theirs) > 100
        assert [entry["image_id"] for entry in ours] == [entry["image_id"] for entry in theirs]
        scores = [[entry["score"] for entry in entries] for entries in (ours, theirs)]
        assert np.allclose(*scores, rtol=0, atol=1e-4)
    assert load(tmp_path / "engine", "metrics.json")["segm"]["AP"] == pytest.approx(
        load(tmp_path / "paddle", "metrics.json")["segm"]["AP"], abs=0.01)


def test_another_precision_is_another_run(trained, tmp_path, bf16, monkeypatch, caplog):
    """--resume must not mix what two precisions found."""
    from cli_runs import stop_at_picture

    with monkeypatch.context() as context:
        stop_at_picture(4, context)
        with pytest.raises(SystemExit):
            evaluate(trained, tmp_path)
    assert_refused("eval", eval_arguments(trained, tmp_path, "--backend=openvino", "--precision=bf16", "--resume"),
                   "--precision")


def test_load_predictor_takes_engine_and_streams(demo, engine):
    one, two = (load_predictor(demo, cuda=False, backend=backend, streams=None) for backend in (engine, "paddle"))
    assert one.streams >= 1 and two.streams == 0
    for picture in pictures(3):
        ours, theirs = one.detect(picture), two.detect(picture)
        assert len(ours) > 0 and (ours.classes == theirs.classes).all() and (ours.boxes == theirs.boxes).all()
        assert np.allclose(ours.scores, theirs.scores, atol=1e-4)


# --- streams of pictures ----------------------------------------------------------------------------------------


@pytest.fixture(params=["paddle", *ENGINES])
def predictor(request, demo):
    if request.param != "paddle":
        request.getfixturevalue("packages")
        pytest.importorskip(request.param)
    return load_predictor(demo, cuda=False, backend=request.param, streams=None)


def test_many_pictures_give_what_each_gives_alone(predictor):
    images = pictures(7)
    images[2] = images[5] = None
    found = list(predictor.detect_many((f"key {number}", image) for number, image in enumerate(images)))
    assert [key for key, _, _ in found] == [f"key {number}" for number in range(7)]
    for (_, image, instances), expected in zip(found, images):
        assert image is expected
        if image is None:
            assert instances is None
            continue
        alone = predictor.detect(image)
        assert len(instances) == len(alone) and (instances.boxes == alone.boxes).all()
        assert np.allclose(instances.scores, alone.scores, atol=1e-5)
    assert list(predictor.detect_many([])) == []


def test_few_pictures_are_read_ahead(predictor):
    taken = []

    def read():
        for number, image in enumerate(pictures(12)):
            taken.append(number)
            yield number, image

    most = 0
    for key, _, _ in predictor.detect_many(read()):
        most = max(most, len(taken) - key)
    assert len(taken) == 12 and most <= 2 * max(2, predictor.streams) + 2


def test_errors_of_reading_and_of_the_network_come_through(predictor, monkeypatch):
    def read():
        yield 0, pictures(1)[0]
        raise UserError("the disk is gone")

    with pytest.raises(UserError, match="the disk is gone"):
        list(predictor.detect_many(read()))
    before = threading.active_count()
    monkeypatch.setattr(predictor, "network", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(predictor.detect_many(enumerate(pictures(5))))
    assert threading.active_count() <= before


def test_a_stream_can_be_left_early(predictor):
    before = threading.active_count()
    many = predictor.detect_many(enumerate(pictures(8)))
    assert next(many)[0] == 0
    many.close()
    assert threading.active_count() <= before


def test_pictures_of_any_size(predictor):
    images = [np.zeros((height, width, 3), np.uint8) for height, width in ((1, 1), (5, 300), (300, 5))]
    for (_, image, found), expected in zip(predictor.detect_many(enumerate(images)), images):
        assert (found.height, found.width) == expected.shape[:2] and image is expected
    assert isinstance(predictor, Predictor)
