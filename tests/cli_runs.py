"""Runs train.py and eval.py as a user does, in this process or in one of its own, with a tiny network."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from data.config import cfg, get_config
from yolact import Yolact

REPO = Path(__file__).resolve().parent.parent
TINY = ["max_size=48", "fpn.num_features=16", "backbone.args=([1, 1, 1], None, 1, 8)",
        "extra_head_net=[(16, 3, {'padding': 1})]",
        "mask_proto_net=[(16, 3, {'padding': 1}), (None, -2, {}), (8, 1, {})]"]

# A tiny network as YOLACT++: deformable convolutions, and masks that are re-scored.
PLUS = ["backbone.args=([1, 1, 1], [0, 1, 1], 1, 8)", "use_maskiou=True", "rescore_mask=True",
        "maskiou_net=[(8, 3, {'stride': 2}), (16, 3, {'stride': 2})]"]
AUGMENTED = ["augment_photometric_distort=True", "augment_expand=True", "augment_random_sample_crop=True"]
SAMPLED = "masks_to_train=3"  # far fewer than there are: the mask loss draws which


def weights_of(folder, *overrides, change=None):
    """A file with random weights of a tiny network, and its config; deformable convolutions have offsets."""
    config = get_config("yolact_demo")
    config = config.copy(config.parse_overrides([*TINY, *overrides]))
    paddle.seed(0)
    state = Yolact(config).state_dict()
    for name in state:
        if "conv_offset_mask" in name:
            state[name] = paddle.randn(state[name].shape) * 0.3
    if change is not None:
        change(state)
    path = folder / "tiny.pdparams"
    paddle.save(state, str(path))
    path.with_suffix(".json").write_text(json.dumps({"config": config.to_dict()}))
    return path, config


def places(data):
    """Overrides that point the demo config at a folder of demo data."""
    return [f"dataset.{part}_{kind}={data / path}" for part, split in (("train", "train"), ("valid", "val"))
            for kind, path in (("images", split), ("info", Path("annotations") / f"instances_{split}.json"))]


def batches_per_epoch(data, batch_size=8):
    """Whole batches of the training pictures that have objects."""
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    return len({annotation["image_id"] for annotation in content["annotations"]}) // batch_size


def stem_of(data, iteration, batch_size=8):
    """Name of the checkpoint after so many iterations on demo data."""
    return f"yolact_demo_{iteration // batches_per_epoch(data, batch_size)}_{iteration}"


def train_arguments(data, folder, *options, overrides=(), config="yolact_demo_config"):
    """argv of train.py: 6 iterations without validation, everything written below `folder`."""
    return [f"--config={config}", "--cuda=False", "--num_workers=0", "--validation_epoch=-1",
            f"--save_folder={folder / 'weights'}", f"--log_folder={folder / 'logs'}", *options,
            "-o", "max_iter=6", *TINY, *places(data), *overrides]


def run(script, arguments):
    """main(argv) of a script, with the global config put back; an exit with a code other than 0 goes through."""
    import eval as eval_script
    import train as train_script

    before = cfg.copy()
    with contextlib.ExitStack() as stack:
        stack.callback(cfg.update_in_place, before)
        {"train": train_script, "eval": eval_script}[script].main([str(argument) for argument in arguments])


def quietly(script, arguments):
    """`run`; returns what it prints."""
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        run(script, arguments)
    return console.getvalue()


def train(data, folder, *options, **more):
    """Runs train.py with `train_arguments`."""
    run("train", train_arguments(data, folder, *options, **more))


def checkpoint_of(folder, data, iteration):
    """Path of the weights that a training on demo data saved after so many iterations."""
    return str(folder / "weights" / f"{stem_of(data, iteration)}.pdparams")


def command(script, arguments, cwd):
    """The script in a process of its own; returns the CompletedProcess."""
    # Paddle warns of OMP_NUM_THREADS, which conftest.py sets for this process.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run([sys.executable, str(REPO / f"{script}.py"), *map(str, arguments)], cwd=str(cwd),
                          env=environment, capture_output=True, text=True, timeout=100)


def assert_refused(script, arguments, *words):
    """The script must end with exit code 1 and one line that holds the words."""
    with pytest.raises(SystemExit) as stop:
        run(script, arguments)
    message = stop.value.code  # sys.exit(text) prints the text to stderr and exits with 1
    assert isinstance(message, str), f"exit code {message}"
    assert message.startswith(f"{script}.py: error: ") and "\n" not in message, message
    for word in words:
        assert re.search(word, message), f"{word!r} is not in: {message}"
    return message


def eval_arguments(weights, folder, *options, overrides=()):
    """argv of eval.py: in Paddle, everything written below `folder`, without a report."""
    given = [f"--trained_model={weights}", "--cuda=False", "--backend=paddle", "--no_bar",
             f"--output_folder={folder}", "--no_report", *options]
    return given + (["-o", *overrides] if overrides else [])


def evaluate(weights, folder, *options, overrides=()):
    """Runs eval.py; returns what it prints."""
    return quietly("eval", eval_arguments(weights, folder, *options, overrides=overrides))


def load(folder, name):
    """A JSON file."""
    return json.loads((folder / name).read_text())


def detections(weights, folder, *options, overrides=(), kind="bbox"):
    """The detections that a run writes as COCO results."""
    evaluate(weights, folder, "--output_coco_json", *options, overrides=overrides)
    return load(folder, f"{kind}_detections.json")


def stop_at_picture(number, monkeypatch):
    """Lets Ctrl-C come at the number-th picture, once; returns a list that grows with each picture."""
    from utils.predictor import Predictor

    instances, seen = Predictor.instances, []

    def instances_or_stop(self, *detection_and_size):
        seen.append(detection_and_size)
        if len(seen) == number:
            raise KeyboardInterrupt
        return instances(self, *detection_and_size)

    monkeypatch.setattr(Predictor, "instances", instances_or_stop)
    return seen


def records(folder, kind=None, name="yolact_demo"):
    """Records of a training's log, of one type or all."""
    lines = (folder / "logs" / f"{name}.log").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [record for record in found if kind in (None, record["type"])]


def stems(folder):
    """Names of the checkpoints below a training's folder; each must be whole."""
    files = sorted(path.name for path in (folder / "weights").iterdir())
    found = sorted({name.rpartition(".")[0] for name in files})
    assert files == sorted(stem + suffix for stem in found for suffix in (".json", ".pdopt", ".pdparams"))
    return found


def checkpoint_state(folder, stem):
    """Everything of a checkpoint that the next step depends on: name -> ndarray."""
    from utils.weights import read_weights, unpickle_arrays

    path = str(folder / "weights" / stem)
    return {**read_weights(path + ".pdparams"), **unpickle_arrays(path + ".pdopt")}


def files_below(folder):
    """Relative paths of the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def copy_data(data, folder):
    """A copy of demo data that a test may damage."""
    return Path(shutil.copytree(str(data), str(folder)))


def edit_info(data, split, change):
    """Apply `change` to the content of an annotation file, in place."""
    path = data / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def odd_pictures(folder, size=(40, 60)):
    """Write pictures of every unusual kind: {file name: (height, width)}; the last one is cut off."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
    pixels = cv2.GaussianBlur(noise, (0, 0), 2)
    arrays = {"grey.png": pixels[:, :, 0], "sixteen.png": pixels.astype(np.uint16) * 257,
              "alpha.png": np.dstack([pixels, pixels[:, :, 0]]), "one.png": pixels[:1, :1],
              "wide.jpg": np.ascontiguousarray(np.broadcast_to(pixels[:8, :1], (8, 10000, 3)))}
    for name, array in arrays.items():
        assert cv2.imwrite(str(folder / name), array)
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels).convert("L").save(folder / "grey.jpg")
    shapes = {name: array.shape[:2] for name, array in arrays.items()}
    shapes.update({"cmyk.jpg": size, "grey.jpg": size, "cut.jpg": size})
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    (folder / "cut.jpg").write_bytes(encoded[:len(encoded) // 2])
    return shapes
