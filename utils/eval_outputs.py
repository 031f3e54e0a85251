"""What eval.py writes, and where: the journal of a run, result files, the server's archive, metrics, report."""
from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from data.config_types import Config
from utils.coco_results import CocoFormat
from utils.errors import UserError
from utils.files import atomic_path
from utils.in_out import check_writable
from utils.result_journal import ResultJournal, compact_json, open_journal, run_of


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


def check_outputs(paths: Sequence[str]) -> None:
    """See that files can be written, before the work that they are to hold; their folders are made.

    Raises:
        UserError: one of them is a folder, cannot be written, or is named twice.
    """
    for number, path in enumerate(paths):
        if os.path.realpath(path) in map(os.path.realpath, paths[:number]):
            raise UserError(f"{path} is to hold two kinds of results; give each its own file")
        if os.path.isdir(path):
            raise UserError(f"{path} is a folder; name a file")
        check_writable(os.path.dirname(path) or ".", f"place for {os.path.basename(path)}")


def archive_name(info_file: str, name: str) -> str:
    """What COCO's test server wants its archive to be called.

    Args:
        info_file: of the images; its name tells which part of COCO they are, test-dev2017 unless it does. name: of the
            algorithm.
    """
    split = re.search(r"(test-dev|test|val|train)(2014|2015|2017)", os.path.basename(info_file))
    return f"detections_{split[0] if split else 'test-dev2017'}_{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}_results.zip"


def write_zip(path: str, result_file: str) -> None:
    """The archive that COCO's test server takes around a result file, by its name inside as well."""
    stem = os.path.splitext(os.path.basename(path))[0]
    entry = zipfile.ZipInfo(stem + ".json")  # without the time, so that equal results make equal files
    entry.compress_type = zipfile.ZIP_DEFLATED
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive, \
            archive.open(entry, "w", force_zip64=True) as target, open(result_file, "rb") as source:
        shutil.copyfileobj(source, target)


def write_web_json(path: str, journal: ResultJournal, image_ids: Sequence[int], names: dict[int, str],
                   config: dict[str, Any]) -> None:
    """What the original's web viewer reads: {"info": ..., "images": [{"image_id", "dets": [...]}]}, by image id.

    Args:
        path: the file. journal: ResultJournal. image_ids: in the order of evaluation. names: {category id: class name}.
        config: dict that goes into the info.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"info":{compact_json({"Config": config})},"images":[')
        for number, (image_id, place) in enumerate(sorted(zip(image_ids, range(len(image_ids))))):
            bbox, segm = journal.of_place(place)
            found = [{"score": box["score"], "bbox": box["bbox"], "category": names[box["category_id"]],
                      **({"mask": segm[index]["segmentation"]} if segm else {})} for index, box in enumerate(bbox)]
            file.write("," * (number > 0) + compact_json({"image_id": image_id, "dets": found}))
        file.write("]}")
