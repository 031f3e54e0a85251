"""What eval.py writes, and where: the journal of a run, result files, metrics, report."""
from __future__ import annotations

import functools
import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from data.config_types import Config
from utils.coco_results import CocoFormat
from utils.in_out import check_writable
from utils.result_journal import ResultJournal, archive_name, check_outputs, open_journal, run_of


def journal_of(args: Namespace, config: Config, path: str, label_map: Mapping[Any, int], has_masks: bool,
               images: Sequence[Any]) -> ResultJournal:
    """The journal of this run; `images` tells the images and their order, `path` is what decides the network."""
    check_writable(args.output_folder, "--output_folder")
    options = ("fast_nms", "cross_class_nms", "detect", "crop", "score_threshold", "top_k", "precision")
    run = run_of(path, config.to_dict(), images, {f"--{name}": getattr(args, name) for name in options})
    return open_journal(args.output_folder, run, len(images), CocoFormat(label_map), has_masks, args.resume)


def output_files(args: Namespace, name: str, has_masks: bool, has_gt: bool, info_file: str) -> dict[str, str]:
    """{kind: path} of what the evaluation of a data set is to write.

    Args:
        args: the command line of eval.py. name: of the config. has_masks: the network has. has_gt: the data set has
            annotations. info_file: its JSON.
    Raises:
        UserError: one of them cannot be written.
    """
    check_writable(args.output_folder, "--output_folder")
    here = functools.partial(os.path.join, args.output_folder)
    files = {}
    if args.output_coco_json:
        files.update(result_files(args, has_masks))
        files["archive"] = here(archive_name(info_file, name))
    if has_gt:
        files["metrics"] = here("metrics.json")
    if args.output_web_json:
        files["web"] = os.path.join(args.web_det_path, f"{name}.json")
    if has_gt and args.comparison:
        files["comparison"] = here("predictions.png")
    if args.report and (has_gt or args.output_web_json):
        files["report"] = here("report", "index.html")
    check_outputs(list(files.values()))
    return files


def result_files(args: Namespace, has_masks: bool) -> dict[str, str]:
    """{"bbox": path, "segm": path} of the COCO result files."""
    files = {"bbox": args.bbox_det_file or os.path.join(args.output_folder, "bbox_detections.json")}
    masks = args.mask_det_file or os.path.join(args.output_folder, "mask_detections.json")
    if has_masks:
        files["segm"] = masks
    elif os.path.exists(masks):
        logging.warning("%s is of an earlier run: this one has no masks", masks)
    return files


def class_names_by_category(label_map: Mapping[Any, int], class_names: Sequence[str]) -> dict[Any, str]:
    """{category id: class name}."""
    return {category: class_names[label - 1] for category, label in label_map.items()}
