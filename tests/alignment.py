"""Measure how far this code is from the original, stage by stage, and print a table in Markdown.

    python tests/alignment.py [--out FILE]

Takes some minutes. All networks have the weights of tests/weights_recipe.py; the figures in tests/goldens were
measured with the original in PyTorch. "Noise" is how far the original in float32 is from itself in float64. The last
rows derive from COCO, whose pictures are not in the repository: they are measured where the environment variables
YOLACT_COCO_TINY and YOLACT_GOLDENS name the two folders.
"""
import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils.runtime  # noqa: E402  before paddle: it chooses how fast matrices are multiplied

# isort: split
import numpy as np  # noqa: E402
import paddle  # noqa: E402
import parity  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from tqdm import tqdm  # noqa: E402

from layers.output_utils import postprocess  # noqa: E402
from utils.coco_results import METRIC_NAMES, evaluate_results  # noqa: E402
from utils.files import atomic_path  # noqa: E402

OUTPUTS = ("loc", "conf", "mask", "proto", "segm", "priors")
# What a stage's figure is, its noise in the original (- where it has none), and what the tests allow.
FIGURES = {
    "backbone and FPN": ("maps, of their abs-max", "8e-6", "1e-4"),
    "forward": ("outputs, of their abs-max", "8e-6", "1e-4"),
    "detection: scores": ("absolute, 3 kinds of NMS", "8e-6", "1e-4"),
    "detection: boxes": ("of the box's larger side", "-", "1e-4"),
    "detection: re-scored mask scores": ("absolute", "-", "1e-4"),
    "detection: pixel boxes": ("pixels of 640 x 480", "1", "1"),
    "detection: masks": ("pixels of one mask that differ", "-", "2, or IoU 0.999"),
    "matching": ("anchors matched otherwise", "0", "0"),
    "loss": ("terms, relative", "2e-7", "1e-4"),
    "gradient: norms": ("relative, every parameter", "9e-4", "2e-3"),
    "gradient: samples": ("of the sample's abs-max", "1.5e-2", "3e-2"),
    "trajectory": ("losses of 12 SGD steps, relative", "7e-5", "1e-3"),
    "evaluation": ("12 COCO figures of boxes and masks", "0", "0"),
}


class Table:
    """The largest difference of each stage, and the network it is of."""

    def __init__(self):
        self.worst = {}

    def add(self, stage, network, difference):
        """Keep it if it is the stage's largest so far; one that is not a number is larger than any."""
        difference = float(difference)
        if not difference <= self.worst.get(stage, (-1.0, ""))[0]:
            self.worst[stage] = (difference, network)

    def markdown(self):
        """The table as text."""
        lines = ["| stage | figure | largest difference | of | noise | allowed |", "|---|---|---|---|---|---|"]
        for stage, (figure, noise, allowed) in FIGURES.items():
            difference, network = self.worst.get(stage, (None, ""))
            if difference is None:
                shown = "not measured"
            else:  # counts as they are
                shown = f"{difference:.0f}" if difference == int(difference) else f"{difference:.1e}"
            lines.append(f"| {stage} | {figure} | {shown} | {network if difference else '-'} | {noise} | {allowed} |")
        return "\n".join(lines)


def measure_forward(table, name, folder=parity.GOLDENS):
    """Maps, outputs and the three kinds of detection of one network."""
    result = parity.forward(name, folder)
    for key, error in result.errors.items():
        table.add("forward" if key.startswith("train/") else "backbone and FPN", name, error)
    golden = parity.goldens(f"forward_{name}.npz", folder)
    for mode in parity.MODES if folder == parity.GOLDENS else ():
        measure_detection(table, name, mode, golden)


def measure_detection(table, name, mode, golden):
    """Detections of one kind of NMS, in the original's order, and what postprocess makes of them."""
    detection = parity.in_golden_order(name, mode, golden)
    theirs = {key: golden[f"det_{mode}/{key}"] for key in parity.KEYS}
    side = (theirs["box"][:, 2:] - theirs["box"][:, :2]).max(axis=1, keepdims=True)
    table.add("detection: scores", name, np.abs(detection["score"].numpy() - theirs["score"]).max())
    table.add("detection: boxes", name, (np.abs(detection["box"].numpy() - theirs["box"]) / side).max())
    found = postprocess(detection, *parity.PICTURE_SIZE, maskiou_net=parity.forward(name).maskiou_net).numpy()
    stored = {key.split("/")[1]: value for key, value in golden.items() if key.startswith(f"post_{mode}_0/")}
    table.add("detection: pixel boxes", name, np.abs(found.boxes - stored["box"]).max())
    if "mask_score" in stored:
        table.add("detection: re-scored masks", name, np.abs(found.mask_scores - stored["mask_score"]).max())
    if "mask_rle" in stored:
        width, height = parity.PICTURE_SIZE
        masks = parity.decode_masks(json.loads(bytes(stored["mask_rle"])), height, width).astype(bool)
        table.add("detection: masks", name, (masks != found.masks.numpy()).sum(axis=(1, 2)).max())


def measure_loss(table, name):
    """Matching, loss terms and gradients of one network."""
    result = parity.loss(name)
    golden = result.golden
    table.add("matching", name, sum(parity.wrong_matches(result, i) for i in range(len(result.targets))))
    for term, value in zip(map(str, golden["loss_names"]), golden["losses"]):
        table.add("loss", name, abs(result.losses[term] - value) / value)
    for parameter, norm in zip(map(str, golden["grad_names"]), golden["grad_norms"].astype("float64")):
        table.add("gradient: norms", name, abs(result.norms[parameter] - norm) / norm)
    for parameter, (_, values) in parity.samples_of(golden, "grad/").items():
        table.add("gradient: samples", name, np.abs(result.sampled[parameter] - values).max() / np.abs(values).max())


def measure_trajectory(table):
    """Twelve steps of SGD."""
    with tempfile.TemporaryDirectory() as folder:
        result = parity.trajectory(folder)
    losses = np.array([[*step.values(), sum(step.values())] for step in result.losses])
    expected = result.golden["losses"]
    table.add("trajectory", "yolact_resnet50", (np.abs(losses - expected) / expected).max())


def measure_evaluation(table, coco_folder, goldens):
    """COCO's figures of stored detections on real annotations."""
    golden = json.loads((goldens / "evalmap.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how it reads a file
        coco = COCO(str(coco_folder / "annotations" / "instances_val2017.json"))
    results = {kind: json.loads((goldens / f"evalmap_{name}_detections.json").read_text())
               for kind, name in (("bbox", "bbox"), ("segm", "mask"))}
    metrics, _ = evaluate_results(coco, results, golden["image_ids_used"])
    for kind in ("bbox", "segm"):
        theirs = golden["results"]["single"][f"coco_{kind}"]["stats"]
        table.add("evaluation", "-", np.abs(np.subtract([metrics[kind][name] for name in METRIC_NAMES], theirs)).max())


def main(argv=None):
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="write the table to this file as well")
    args = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # of training without ImageNet weights
    utils.runtime.set_threads()
    table = Table()
    steps = [(measure_forward, name) for name in parity.CONFIGS]
    steps += [(measure_loss, name) for name in parity.LOSS_CONFIGS] + [(measure_trajectory,)]
    goldens, coco_folder = (os.environ.get(name) for name in ("YOLACT_GOLDENS", "YOLACT_COCO_TINY"))
    if goldens:
        steps.append((measure_forward, "yolact_im700", Path(goldens)))
    if goldens and coco_folder:
        steps.append((measure_evaluation, Path(coco_folder), Path(goldens)))
    for measure, *arguments in tqdm(steps, unit="step", dynamic_ncols=True):
        measure(table, *arguments)
    text = f"paddle {paddle.__version__} on {paddle.device.get_device()}\n\n{table.markdown()}"
    print(text)
    if args.out:
        with atomic_path(args.out) as temporary:
            Path(temporary).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
