"""COCO's figures of result files that are already there, of this or another program (the original's run_coco_eval.py).

    python tools/coco_eval.py --gt_ann_file=data/coco/annotations/instances_val2017.json

Every image of the annotation file counts, whether or not there are detections in it.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.coco import index_of  # noqa: E402
from data.coco_checks import read_info  # noqa: E402
from data.images import DatasetError  # noqa: E402
from utils.coco_results import class_table, evaluate_results  # noqa: E402


def parse_args(argv=None):
    """The command line as a namespace."""
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


def read_results(path, kind, images):
    """A list of COCO results.

    Args:
        path: of the file. kind: the key that each result needs, "bbox" or "segmentation". images: ids of the ground
            truth.

    Raises:
        DatasetError: the file cannot be read, is no such list, or is of other images.
    """
    try:
        with open(path, encoding="utf-8") as file:
            results = json.load(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); eval.py --output_coco_json writes it") from error
    if not isinstance(results, list) or not all(_is_result(entry, kind) for entry in results):
        raise DatasetError(f"{path} is no list of COCO results, each with image_id, category_id, score and {kind} "
                           f"({'x, y, width, height' if kind == 'bbox' else 'run lengths: size and counts'})")
    others = {entry["image_id"] for entry in results}.difference(images)
    if others:
        raise DatasetError(f"{path} has results of {len(others)} images that are not in the ground truth, such as "
                           f"{next(iter(others))}; correct --gt_ann_file")
    return results


def _is_result(entry, kind):
    if not (isinstance(entry, dict) and {"image_id", "category_id", "score", kind} <= set(entry)
            and type(entry["score"]) in (int, float)):
        return False
    if kind == "bbox":
        box = entry["bbox"]
        return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    return isinstance(entry["segmentation"], dict) and {"size", "counts"} <= set(entry["segmentation"])


def run(args):
    """Everything but the handling of the user's mistakes."""
    content = read_info(args.gt_ann_file, "--gt_ann_file", has_gt=True)
    if "annotations" not in content:
        raise DatasetError(f"{args.gt_ann_file} has no annotations, so there is nothing to measure")
    truth = index_of(content)
    results = {}
    if args.eval_type != "mask":
        results["bbox"] = read_results(args.bbox_det_file, "bbox", truth.imgs)
    if args.eval_type != "bbox":
        results["segm"] = read_results(args.mask_det_file, "segmentation", truth.imgs)
    metrics, text = evaluate_results(truth, results, list(truth.imgs))
    print(text + (class_table(metrics) if args.classwise else ""))


def main(argv=None):
    """Entry point; a user's mistake ends in one line and exit code 1."""
    try:
        run(parse_args(argv))
    except DatasetError as error:
        sys.exit(f"coco_eval.py: error: {error}")


if __name__ == "__main__":
    main()
