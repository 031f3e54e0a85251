"""COCO's figures of result files that are already there, of this or another program (the original's run_coco_eval.py).

    python tools/coco_eval.py --gt_ann_file=data/coco/annotations/instances_val2017.json

Every image of the annotation file counts, whether or not there are detections in it.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.coco import index_of  # noqa: E402
from data.coco_checks import is_number, read_info  # noqa: E402
from data.images import DatasetError, decode_rle  # noqa: E402
from utils.coco_results import class_table, evaluate_results  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--bbox_det_file", default="results/bbox_detections.json", help="box results (default: %(default)s)")
    add("--mask_det_file", default="results/mask_detections.json", help="mask results (default: %(default)s)")
    add("--gt_ann_file", default="data/coco/annotations/instances_val2017.json",
        help="the ground truth (default: %(default)s)")
    add("--eval_type", choices=("bbox", "mask", "both"), default="both", help="what to measure (default: %(default)s)")
    add("--classwise", action="store_true", help="print the AP of every class")
    return parser.parse_args(argv)


def read_results(path: str, kind: str, truth: COCO) -> list[dict[str, Any]]:
    """A list of COCO results, masks as compressed RLE.

    Args:
        path: of the file. kind: the key that each result needs, "bbox" or "segmentation". truth: the ground truth.

    Raises:
        DatasetError: the file cannot be read, is no such list, is of other images, or has an unusable entry.
    """
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); eval.py --output_coco_json writes it") from error
    wrong = -1 if not isinstance(results, list) else next(
        (number for number, entry in enumerate(results) if not _is_result(entry, kind)), None)
    if wrong is not None:
        where = f" (see entry {wrong})" if wrong >= 0 else ""
        raise DatasetError(f"{path} is no list of COCO results, each with image_id, category_id, score and {kind} "
                           f"({'x, y, width, height' if kind == 'bbox' else 'run lengths: size and counts'}){where}; "
                           f"write it as eval.py --output_coco_json does")
    others = {entry["image_id"] for entry in results}.difference(truth.imgs)
    if others:
        raise DatasetError(f"{path} has results of {len(others)} images that are not in the ground truth, such as "
                           f"{next(iter(others))}; correct --gt_ann_file")
    found = []
    for number, entry in enumerate(results):
        try:
            # Only what belongs to a result of this kind: pycocotools would take a mask's size from a box beside it.
            found.append({"image_id": entry["image_id"], "category_id": _category(entry, truth),
                          "score": _score(entry), kind: (_box if kind == "bbox" else _mask)(entry, truth)})
        except ValueError as error:
            raise DatasetError(f"entry {number} of {path} has {error}") from None
    return found


def _is_result(entry: Any, kind: str) -> bool:
    """Whether an entry of a file has the keys of a result, with values of the types that they should have."""
    if not (isinstance(entry, dict) and {"image_id", "category_id", "score", kind} <= set(entry)
            and all(type(entry[key]) in (int, float, str) for key in ("image_id", "category_id"))
            and type(entry["score"]) in (int, float)):
        return False
    if kind == "bbox":
        box = entry["bbox"]
        return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    mask = entry["segmentation"]
    return isinstance(mask, dict) and "size" in mask and isinstance(mask.get("counts"), (str, list))


def _category(entry: dict[str, Any], truth: COCO) -> Any:
    category = entry["category_id"]
    if "categories" in truth.dataset and category not in truth.cats:
        raise ValueError(f"the category_id {category}, which the ground truth does not have; write the ids of its "
                         "'categories', or correct --gt_ann_file")
    return category


def _score(entry: dict[str, Any]) -> float:
    if not is_number(entry["score"]):
        raise ValueError(f"the score {entry['score']}; write finite numbers, or leave such detections out")
    return entry["score"]


def _box(entry: dict[str, Any], truth: COCO) -> list[float]:
    box = entry["bbox"]
    if not all(map(is_number, box)) or box[2] < 0 or box[3] < 0:
        raise ValueError(f"the bbox {box}; write x, y, width and height in pixels, finite and the sizes not negative")
    return box


def _mask(entry: dict[str, Any], truth: COCO) -> dict[str, Any]:
    """The mask as compressed RLE. Its counts are checked: with a wrong sum COCOeval may run for ever."""
    mask, image = entry["segmentation"], truth.imgs[entry["image_id"]]
    size = [int(image["height"]), int(image["width"])]
    if mask["size"] != size:
        raise ValueError(f"a mask of size {repr(mask['size']):.40}, but image {entry['image_id']} of the ground truth "
                         f"has {size} (height, width); scale the masks to it, or correct --gt_ann_file")
    counts = mask["counts"]
    try:
        if isinstance(counts, list):
            if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
                raise ValueError("the run-length counts are no whole numbers that add up to its size")
            return mask_utils.frPyObjects({"size": size, "counts": counts}, *size)
        decode_rle({"size": size, "counts": counts})
    except ValueError as error:
        raise ValueError(f"a damaged mask: {error}; write the file again") from None
    return {"size": size, "counts": counts}


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    content = read_info(args.gt_ann_file, "--gt_ann_file", has_gt=True)
    if "annotations" not in content:
        raise DatasetError(f"{args.gt_ann_file} has no annotations, so there is nothing to measure")
    truth = index_of(content)
    results = {}
    if args.eval_type != "mask":
        results["bbox"] = read_results(args.bbox_det_file, "bbox", truth)
    if args.eval_type != "bbox":
        results["segm"] = read_results(args.mask_det_file, "segmentation", truth)
    metrics, text = evaluate_results(truth, results, list(truth.imgs))
    print(text + (class_table(metrics) if args.classwise else ""))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    try:
        run(parse_args(argv))
    except DatasetError as error:
        sys.exit(f"coco_eval.py: error: {error}")


if __name__ == "__main__":
    main()
