"""tools/benchmark.py --inference: engines in turn, agreement with eager, made-up outputs, other commands, tables."""

import importlib.util
import json
import shutil
import sys
import types

import cv2
import numpy as np
import pytest
from cli_runs import REPO, evaluate, load, odd_pictures, places
from pycocotools import mask as mask_utils

from data.config import cfg, make_config, set_cfg
from tools import benchmark
from tools.benchmarks import clock, engines, inference, machine, scaling, tables, versus
from tools.benchmarks import pictures as choice
from tools.benchmarks.agreement import Found, agreement
from tools.benchmarks.engines import EAGER, Engine, choose_engines
from utils.engines import is_installed
from utils.instances import Instances
from utils.predictor import load_predictor
from utils.runtime import UserError

STAGES = ["load", "transform", "network", "detection", "masks", "encode"]
COPY = ("import os, shutil, sys\n"
        "for name in os.listdir(sys.argv[1]):\n"
        "    shutil.copy(os.path.join(sys.argv[1], name), sys.argv[2])\n")


@pytest.fixture
def quick(monkeypatch):
    """As little of everything as there can be."""
    monkeypatch.setattr(clock, "SETTLE", 0)
    monkeypatch.setattr(machine, "SIDE", 32)
    monkeypatch.setattr(machine, "ROUNDS", 1)
    monkeypatch.setattr(engines, "PASSES", 1)
    monkeypatch.setattr(scaling, "COUNTS", (2, 5))
    monkeypatch.setattr(scaling, "MEGAPIXELS", (0.01, 0.03))
    monkeypatch.setattr(scaling, "ROUNDS", 2)
    monkeypatch.setattr(scaling, "TURN", 1)
    monkeypatch.setattr(versus, "REPEATS", 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The shipped network where engines may be built beside it."""
    return shutil.copy(REPO / "weights" / "yolact_demo.safetensors", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def eager(weights):
    """The shipped network in Paddle, with all that it finds."""
    return load_predictor(weights, cuda=False, backend="paddle", **engines.AS_EVALUATED)


def run(*arguments):
    return benchmark.main(["--cuda=False", *map(str, arguments)])


def found(*items):
    """Found of (class, score, first row, first column) with masks of 10 x 10 pixels; a row of None is an empty one."""
    rles = []
    for _, _, row, column in items:
        mask = np.zeros((40, 40), np.uint8, order="F")
        if row is not None:
            mask[row:row + 10, column:column + 10] = 1
        rles.append(mask_utils.encode(mask))
    return Found(np.array([item[0] for item in items], np.int64), np.array([item[1] for item in items], float), rles)


# Agreement


def test_everything_agrees_with_itself_in_any_order():
    first, second = found((1, 0.9, 0, 0), (1, 0.8, 20, 20)), found((0, 0.7, None, None), (2, 0.5, 3, 3))
    mirrored = Found(second.classes[::-1], second.scores[::-1], second.rles[::-1])
    assert agreement([first, second], [first, mirrored]) == {
        "detections": 4, "same": 1.0, "at_all": 1.0, "largest_score_difference": 0.0, "smallest_mask_iou": 1.0}


@pytest.mark.parametrize("other, same, at_all, difference, overlap", [
    (found((1, 0.9, 0, 0)), 1, 1, 0, 1),
    (found((1, 0.9009, 0, 0)), 1, 1, 0.0009, 1),
    (found((1, 0.898, 0, 0)), 0, 1, 0.002, 1),
    (found((1, 0.9, 0, 1)), 0, 1, 0, 90 / 110),  # a column further
    (found((1, 0.9, 0, 5)), 0, 0, None, None),
    (found((2, 0.9, 0, 0)), 0, 0, None, None),
    (found((1, 0.9, None, None)), 0, 0, None, None),
    (found(), 0, 0, None, None),
    (found((1, 0.5, 0, 1), (1, 0.9, 0, 0)), 1, 1, 0, 1),  # the better of two
])
def test_agreement(other, same, at_all, difference, overlap):
    result = agreement([found((1, 0.9, 0, 0))], [other])
    assert (result["same"], result["at_all"]) == (same, at_all) and result["detections"] == 1
    assert result["largest_score_difference"] == (None if difference is None else pytest.approx(difference))
    assert result["smallest_mask_iou"] == (None if overlap is None else pytest.approx(overlap))


def test_a_detection_is_the_partner_of_one_only():
    assert agreement([found((1, 0.9, 0, 0), (1, 0.9, 0, 0))], [found((1, 0.9, 0, 0))])["same"] == 0.5


def test_where_eager_finds_nothing_there_is_no_agreement():
    assert agreement([found()], [found((1, 0.9, 0, 0))]) == {
        "detections": 0, "same": None, "at_all": None, "largest_score_difference": None, "smallest_mask_iou": None}


def test_without_masks_boxes_are_compared():
    boxes = Instances([3], [0.5], [[2, 4, 12, 10]], None, None, 20, 30)
    [rle] = engines.found_of(boxes).rles
    assert rle["size"] == [20, 30] and mask_utils.toBbox(rle).tolist() == [2, 4, 10, 6]
    assert engines.found_of(Instances([], [], [], None, None, 20, 30)).rles == []


# Engines


def engines_here(monkeypatch, installed=("paddle", "onnxruntime", "openvino"), bf16=True):
    monkeypatch.setattr(engines, "is_installed", lambda backend: backend in installed)
    monkeypatch.setattr("utils.engines.is_installed", lambda backend: backend in installed)
    monkeypatch.setattr(engines, "has_bf16", lambda: bf16)


def test_installed_engines_are_chosen_and_the_others_of_bf16_told(monkeypatch):
    engines_here(monkeypatch)
    engines, left_out = choose_engines(None, ["fp32", "bf16"], on_gpu=False)
    assert list(map(str, engines)) == ["paddle fp32", "onnxruntime fp32", "openvino fp32", "openvino bf16"]
    assert len(left_out) == 1 and left_out[0].startswith("paddle bf16, onnxruntime bf16: ")
    engines_here(monkeypatch, installed=("paddle", "openvino"))
    assert choose_engines(None, ["fp32"], on_gpu=False) == ([EAGER, Engine("openvino", "fp32")], [])
    assert choose_engines(["paddle"], ["bf16"], on_gpu=True) == ([Engine("paddle", "bf16")], [])


def test_a_processor_without_bf16_is_told(monkeypatch):
    engines_here(monkeypatch, bf16=False)
    engines, left_out = choose_engines(["openvino"], ["fp32", "bf16"], on_gpu=False)
    assert engines == [Engine("openvino", "fp32")] and "no units for bf16" in left_out[0]
    with pytest.raises(UserError, match="nothing is left to measure.*--precisions"):
        choose_engines(["openvino"], ["bf16"], on_gpu=False)


def load_or_fail(monkeypatch):
    def load(weights, config, backend, streams, **options):
        if backend == "onnxruntime":
            raise UserError("it does not work")
        return types.SimpleNamespace(name=f"{backend} {streams}", streams={"openvino": streams or 4}.get(backend, 0))

    monkeypatch.setattr(engines, "load_predictor", load)


def test_an_engine_that_does_not_work_is_left_out_unless_it_was_asked_for(monkeypatch):
    load_or_fail(monkeypatch)
    asked = [Engine("onnxruntime", "fp32"), Engine("openvino", "fp32")]
    loaded, left_out = engines.load_engines(asked, "weights", {}, False, must=False)
    assert left_out == ["onnxruntime fp32: it does not work"]
    names = {str(engine): tuple(predictor.name for predictor in pair) for engine, pair in loaded.items()}
    assert names == {"paddle fp32": ("paddle None", "paddle None"), "openvino fp32": ("openvino 1", "openvino None")}
    with pytest.raises(UserError, match="it does not work"):
        engines.load_engines(asked, "weights", {}, False, must=True)


def test_engines_take_turns_on_every_picture(monkeypatch):
    order = []

    def fake(name):
        return types.SimpleNamespace(streams=1, transform=lambda image: np.zeros(1),
                                     network=lambda images: order.append(name))

    def time_picture(predictor, load, path, watch):
        predictor.network(None)
        watch.seconds.setdefault("network", []).append(path)

    monkeypatch.setattr(clock, "SETTLE", 0)
    monkeypatch.setattr(engines, "as_image", lambda path: path)
    monkeypatch.setattr(engines, "time_picture", time_picture)
    chosen = [EAGER, Engine("openvino", "fp32"), Engine("openvino", "bf16")]
    rounds = engines.measure_rounds({engine: fake(engine.precision[0] + engine.backend[0]) for engine in chosen},
                                    [1, 2, 3, 4])
    turns = [order[index:index + 2] for index in range(3 * 3, len(order), 2)]  # after the first picture and its warm-up
    assert [first for first, _ in turns] == ["fo", "bo", "fp", "bo", "fp", "fo", "fp", "fo", "bo"]
    assert all(first == second for first, second in turns)
    for engine in chosen:
        assert rounds[engine]["stages"] == {"network": [1, 2, 3, 4]} and len(rounds[engine]["network"]) == 4


def test_figures_of_an_engine():
    def rounds(network, around):
        return {"network": network, "stages": {"load": around, "network": network}}

    figures = inference.engine_figures(
        rounds([0.1, 0.2, 0.4], [0.1, 0.1, 0.1]), rounds([0.4, 0.4, 0.4], [0.2, 0.1, 0.1]),
        {"network_seconds": [1, 2], "seconds": [2, 2]}, gflop=10, ceiling=200)
    assert figures["network"] == pytest.approx({"median_ms": 200, "p95_ms": 380, "gflops": 50, "of_ceiling": 0.25,
                                                "times_eager": 2})
    assert figures["picture"]["median_ms"] == pytest.approx(300) and figures["picture"]["fps"] == pytest.approx(1 / 0.3)
    assert figures["picture"]["times_eager"] == pytest.approx(0.5 / 0.3)
    assert figures["overlapped"] == pytest.approx({"fps": 1.5, "of_bare_network": 0.75})
    assert {name: row["median_ms"] for name, row in figures["stages"].items()} == pytest.approx(
        {"load": 100, "network": 200, "all but the network": 100})


@pytest.mark.parametrize("streams", [0, 3])
def test_the_bare_network_gets_every_input_once(streams):
    seen = []
    engines.run_bare(types.SimpleNamespace(streams=streams, network=seen.append), list(range(20)))
    assert sorted(seen) == list(range(20))


def test_every_library_multiplies_the_same_matrices():
    """And OpenVINO what it is given, not a constant."""
    products = machine.products(False, ["fp32"], 1, 16)
    results = {library: product() for (_, library), product in products.items()}
    for library, result in results.items():
        result = next(iter(result.values())) if library == "OpenVINO" else np.asarray(result)
        assert np.allclose(result, results["numpy"], atol=1e-4), library
    assert {"numpy", "Paddle"} <= set(results) and ("OpenVINO" in results) == is_installed("openvino")


def test_the_ceiling_is_the_fastest_library(monkeypatch, quick):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock.now)

    def lasting(seconds):
        return lambda: setattr(clock, "now", clock.now + seconds)

    monkeypatch.setattr(machine, "products", lambda *arguments: {
        ("fp32", "slow"): lasting(1), ("fp32", "fast"): lasting(0.5), ("bf16", "only"): lasting(0.25)})
    monkeypatch.setattr(machine, "SIDE", 1000)
    ceilings = machine.measure_ceilings(False, ["fp32", "bf16"], 1)
    assert ceilings["fp32"] == {"of_libraries": {"slow": 2.0, "fast": 4.0}, "library": "fast", "gflops": 4.0}
    assert ceilings["bf16"]["gflops"] == 8.0


# Pictures and weights


def choose(*arguments, folder="unused"):
    return choice.choose_pictures(benchmark.parse_args(arguments), str(folder))


def test_pictures_are_the_first_that_can_be_read(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    for name in ("d.png", "a.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 6, 3), np.uint8))
    paths, name = choose(f"--pictures={tmp_path}", "--count=2")
    assert paths == [str(tmp_path / "a.png"), str(tmp_path / "c.jpg")] and name == f"2 of {tmp_path}"
    assert len(choose(f"--pictures={tmp_path}", "--count=9")[0]) == 3


def test_pictures_are_the_validation_set_or_made_up(tmp_path, demo_data):
    set_cfg("yolact_demo_config")
    cfg.dataset.valid_images = str(demo_data / "val")
    assert choose("--count=3")[0][0].startswith(str(demo_data / "val"))
    paths, _ = choose("--count=3", "--made_up", folder=tmp_path / "asked")
    assert [cv2.imread(path).shape for path in paths] == [(480, 640, 3)] * 3
    cfg.dataset.valid_images = "nowhere"
    assert len(choose("--count=2", folder=tmp_path / "missing")[0]) == 2


def test_random_weights_find_something_and_know_their_config(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "NEAR_PRIORS", 40)
    set_cfg("yolact_demo_config")
    cfg.max_size = 64
    pictures = choice.make_up_pictures(str(tmp_path / "pictures"), 2)
    path = choice.make_up_weights(str(tmp_path / "any.safetensors"), pictures[0])
    predictor = load_predictor(path, cuda=False, backend="paddle", **engines.AS_EVALUATED)
    for picture in pictures:
        logits = predictor.network(predictor.transform(cv2.imread(picture))[None])["conf"].numpy()[0]
        assert 20 < (logits[:, 1:].max(axis=1) > logits[:, 0]).sum() < 80
        instances = predictor.detect(picture)
        assert len(instances) > 20 and any(instances.window(index)[2].any() for index in range(len(instances)))
    assert predictor.transform(np.zeros((9, 9, 3), np.uint8)).shape == (3, 64, 64)


# Scaling


@pytest.mark.parametrize("count", [1, 10, 100])
def test_as_many_objects_are_found_as_are_made_up(eager, count):
    config = make_config("yolact_demo_config")
    example = eager.network(np.zeros((1, 3, config.max_size, config.max_size), np.float32))
    outputs = scaling.made_up_outputs(example, count)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        name: tuple(output.shape) for name, output in example.items()}
    stand_in = scaling.StandIn(eager, outputs, config, count)
    [detection] = stand_in.detections_of(stand_in.network(None))
    instances = stand_in.instances(detection, 480, 640)
    assert len(instances) == count and np.mean(instances.scores > 0.5) > 0.7
    sizes = [instances.window(index)[2].mean() for index in range(count) if instances.window(index)[2].size]
    assert len(sizes) >= 0.9 * count and 0.5 < np.mean(sizes) < 0.95


def test_memory_is_that_of_each_stage():
    watch, kept = scaling.MemoryWatch(), []
    scaling.tracemalloc.start()
    try:
        for _ in range(2):
            watch.start()
            kept.append(np.zeros(2 << 20, np.uint8))
            watch.lap("keeps")
            np.zeros(5 << 20, np.uint8)
            watch.lap("gives back")
            watch.lap("nothing")
    finally:
        scaling.tracemalloc.stop()
    assert {stage: round(peak, 2) for stage, peak in watch.peaks.items()} == {
        "keeps": 2, "gives back": 5, "nothing": 0}


def test_a_made_up_picture_has_its_megapixels(tmp_path):
    height, width = cv2.imread(scaling.write_picture(str(tmp_path), 0.3)).shape[:2]
    assert height * width == pytest.approx(0.3e6, rel=0.01) and width / height == pytest.approx(4 / 3, rel=0.01)


def test_labels_of_close_lines_stay_apart():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    tables._label_ends(axes, {"load": 0.5, "masks": 0.501, "encode": 0.49, "detection": 0.9})
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert sorted(heights, key=heights.get) == ["encode", "load", "masks", "detection"]
    assert min(np.diff(sorted(heights.values()))) > tables.LABEL_GAP - 1e-9
    assert heights["detection"] == pytest.approx(0.9)


# Other commands


def script(tmp_path, text):
    """The command of a Python script with that text."""
    path = tmp_path / "theirs.py"
    path.write_text(text)
    return [sys.executable, str(path), "{images}", "{out}"]


def test_a_command_gets_pictures_an_empty_folder_and_the_environment(tmp_path):
    images, log = tmp_path / "images", tmp_path / "log"
    images.mkdir()
    words = script(tmp_path, "import os, sys\n"
                             f"with open({str(log)!r}, 'a') as file:\n"
                             "    print(sys.argv[1], os.listdir(sys.argv[2]), os.environ['MINE'], file=file)\n"
                             "open(os.path.join(sys.argv[2], 'result'), 'w').close()\n")
    for _ in range(2):
        assert versus.time_command(words, str(images), {"MINE": "7"}) > 0
    assert log.read_text().splitlines() == [f"{images} [] 7"] * 2


@pytest.mark.parametrize("text, words", [
    ("import sys; print('first\\nlast', file=sys.stderr); sys.exit(3)", "exit code 3: last$"),
    ("import sys; sys.exit(4)", "exit code 4: it wrote nothing to stderr"),
])
def test_a_command_that_fails_is_told(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        versus.time_command(script(tmp_path, text), "images", {})


@pytest.mark.parametrize("text, words", [
    ("python their.py", "{images}"), ("python 'their.py {images}", "correct its quotes")])
def test_a_command_without_pictures_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        versus.split_command(text)


def test_a_picture_is_the_slope_between_one_and_many(monkeypatch, tmp_path):
    """The folders hold the pictures; what does not depend on their number, and one bad repetition, do not count."""
    runs = []

    def time_command(words, images, environment):
        count = len(list(versus.os.scandir(images)))
        runs.append((words[0], count, environment))
        start_up, each = {"theirs": (100, 2), "ours": (3, 0.5), "instant": (1, 0)}[words[0]]
        return start_up + each * count + (50 if len(runs) == 2 else 0)

    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for path in paths:
        cv2.imwrite(path, np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setattr(versus, "time_command", time_command)
    commands = {"--versus": ["theirs"], "ours": ["ours"], "instant": ["instant"]}
    figures = versus.measure_versus(commands, paths, {"A": "b"})
    assert {name: (row["ms_per_picture"], row["of_theirs"]) for name, row in figures.items()} == {
        "--versus": (2000, 1), "ours": (500, 0.25), "instant": (0, None)}
    assert runs[:4] == [("theirs", 1, {"A": "b"}), ("theirs", 5, {"A": "b"}), ("ours", 1, {"A": "b"}),
                        ("ours", 5, {"A": "b"})] and len(runs) == 6 * versus.REPEATS
    assert "a larger --count" in tables.versus_report(figures)


def test_eval_gets_the_options_of_a_network_that_was_named():
    options = ["--config=yolact_demo", "--dataset=demo", "-o", "nms_thresh=0.4"]
    args = benchmark.parse_args(["--trained_model=a.pth", "--cuda=False", *options])
    fastest = {"fp32": "openvino fp32", "bf16": "openvino bf16"}
    commands = inference.own_commands(args, "a.pth", fastest)
    assert list(commands) == ["eval.py, openvino fp32", "eval.py, openvino bf16"]
    assert commands["eval.py, openvino bf16"][2:] == [
        "--trained_model=a.pth", "--images={images}:{out}", "--no_bar", "--backend=openvino", "--precision=bf16",
        "--cuda=False", *options]
    args = benchmark.parse_args(options)
    [words] = inference.own_commands(args, "random.safetensors", {"fp32": "paddle fp32"}).values()
    assert words[2:] == ["--trained_model=random.safetensors", "--images={images}:{out}", "--no_bar",
                         "--backend=paddle", "--precision=fp32", "--cuda=True"]


# The command


def test_inference_mode(quick, weights, demo_data, tmp_path, capfd):
    """All engines that are there, eval.py in a process of its own beside another command, JSON and pictures."""
    theirs = " ".join(script(tmp_path, COPY))
    file, plots = tmp_path / "figures.json", tmp_path / "plots"
    assert run(f"--trained_model={weights}", "--count=4", f"--json={file}", f"--plots={plots}",
               "--accuracy", f"--versus={theirs}", "-o", *places(demo_data)) == 0
    figures = json.loads(file.read_text())["inference_figures"]
    built = importlib.util.find_spec("paddle2onnx") is not None
    names = [f"{backend} fp32" for backend in ("paddle", "onnxruntime", "openvino")
             if backend == "paddle" or (built and is_installed(backend))]
    assert [name for name in figures["engines"] if name.endswith("fp32")] == names
    assert figures["count"] == 4 and 0.2 < figures["gflop"] < 0.3 and figures["ceilings"]["fp32"]["gflops"] > 0
    for name, row in figures["engines"].items():
        assert row["backend"] and list(row["stages"]) == [*STAGES, "all but the network"]
        assert min(row["network"]["gflops"], row["network"]["times_eager"], row["picture"]["fps"],
                   row["overlapped"]["fps"], row["overlapped"]["of_bare_network"]) > 0
        assert row["agreement"]["detections"] > 4
        assert row["agreement"]["same" if name in names else "at_all"] > 0.9
    assert figures["engines"]["paddle fp32"]["agreement"]["same"] == 1
    evaluate(weights, tmp_path / "out", overrides=places(demo_data))
    expected = {kind: found["AP"] for kind, found in load(tmp_path / "out", "metrics.json").items() if "AP" in found}
    assert figures["accuracy"]["paddle fp32"] == expected and min(expected.values()) > 0.1
    assert list(figures["accuracy"]) == list(figures["engines"])
    assert all(abs(figures["accuracy"][name]["segm"] - expected["segm"]) < 0.02 for name in names)
    assert set(figures["scaling"]["objects"]) == {"2", "5"}
    assert list(figures["scaling"]["megapixels"]["0.03"]) == [stage for stage in STAGES if stage != "network"]
    assert figures["versus"]["--versus"]["command"].endswith("'{images}' '{out}'")
    assert [f"eval.py, {name}" for name in figures["fastest"].values()] == list(figures["versus"])[1:]
    for axis in ("objects", "megapixels"):
        assert cv2.imread(str(plots / f"scaling_{axis}.png")).shape == (624, 1430, 3)
    text = capfd.readouterr().out
    for words in ("GFLOP/s", "one picture at a time", "milliseconds, by objects found", "ms a picture"):
        assert words in text


def test_random_weights_and_one_engine(quick, tmp_path, capfd):
    file = tmp_path / "figures.json"
    assert run("--config=yolact_demo_config", "--count=2", "--backends", "paddle", "--precisions", "fp32",
               f"--json={file}", "-o", "max_size=64") == 0
    figures = json.loads(file.read_text())["inference_figures"]
    assert figures["weights"] == "random" and list(figures["engines"]) == ["paddle fp32"]
    assert figures["engines"]["paddle fp32"]["agreement"]["detections"] > 40
    assert "versus" not in figures and "2 made-up pictures" in capfd.readouterr().out


def test_odd_pictures_do_no_harm(quick, weights, tmp_path):
    odd_pictures(tmp_path / "odd")
    assert run(f"--trained_model={weights}", "--count=9", "--backends", "paddle", "--precisions=fp32",
               f"--pictures={tmp_path / 'odd'}") == 0


@pytest.mark.parametrize("arguments, words", [
    (["--pictures=nowhere"], "no folder nowhere; correct --pictures"),
    (["-o", "dataset.valid_images=nowhere"], "no folder nowhere; correct --pictures, or dataset.valid_images"),
    (["--versus=python their.py"], "{images}"),
    (["--versus=python their.py {images}", "--count=1"], "at least 2 pictures"),
    (["--versus=no-such-program {images}"], "no-such-program cannot be started"),
    (["--trained_model=nowhere.pth"], "nowhere.pth"),
    (["--plots=/dev/null/plots"], "choose another --plots"),
    (["--json=/dev/null/figures.json"], "choose another --json"),
    (["--config=yolact_demos"], "yolact_demo"),
    (["--backends", "openvino"], "openvino is not installed"),
])
def test_mistakes_are_one_line(arguments, words, monkeypatch, capfd):
    monkeypatch.setattr("utils.engines.is_installed", lambda backend: backend == "paddle")
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    message = str(stopped.value)
    assert message.startswith("benchmark.py: error: ") and words in message and "\n" not in message
