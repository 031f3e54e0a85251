"""Evaluate YOLACT: COCO metrics and a report, COCO result files, pictures and video with what was detected.

    python eval.py --trained_model=weights/yolact_base_54_800000.pdparams
    python eval.py --trained_model=... --output_coco_json --dataset=coco2017_testdev_dataset
    python eval.py --trained_model=... --image=in.jpg:out.png
    python eval.py --trained_model=... --images=in_folder:out_folder
    python eval.py --trained_model=... --video=in.mp4:out.mp4

In a program: utils.predictor.load_predictor.
"""
from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, seed_everything, select_device, set_threads, set_up_messages

# isort: split
import numpy as np
import paddle
from tqdm import tqdm

from data.coco import COCODetection, image_order, load_dataset
from data.coco_checks import class_names_of
from data.config import COLORS, MEANS, STD, ConfigError, apply_overrides, cfg, make_config, set_dataset
from data.images import DatasetError
from utils import ranks
from utils.augmentations import build_augmentation
from utils.coco_results import CocoFormat, CocoResults, class_table, evaluate_results, write_metrics
from utils.comparison_page import comparison_page
from utils.config_differences import network_differences
from utils.eval_options import BENCHMARK_IMAGES, OBSOLETE, PAGE_PICTURES, WITHOUT_EFFECT, add_options
from utils.eval_outputs import class_names_by_category, journal_of, output_files, write_web_json, write_zip
from utils.eval_pictures import detect_pictures, detect_video, draw_options, tell
from utils.exported import DESCRIPTION, load_exported, read_description
from utils.instances import Instances
from utils.networks import locate, open_network
from utils.overlap import Behind
from utils.pictures import folder_of_pictures, one_picture
from utils.predictor import SHOWN_SCORE_THRESHOLD, SHOWN_TOP_K, Predictor
from utils.report import write_report
from utils.result_journal import ResultJournal
from utils.screen import open_window
from utils.stopwatch import Stopwatch, time_picture

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add_options(parser)
    return parser.parse_args(argv)


# --- what to evaluate -------------------------------------------------------------------------------------------


def configure(args: argparse.Namespace) -> str:
    """Fill the global cfg: the config of the weights, --dataset, then -o. Returns the path of the weights."""
    path, config, saved = locate(args.trained_model, args.config, args.save_folder, not args.no_bar)
    cfg.update_in_place(config)
    _apply_options(args)
    if args.config is not None and saved is not None:
        for key, theirs, ours in network_differences(saved, cfg.to_dict()):
            logging.warning("%s was trained with %s=%s, and now it is %s", path, key, theirs, ours)
    return path


def configure_exported(args: argparse.Namespace) -> str:
    """Fill the global cfg from the description of an exported network, --dataset and -o. Returns its path."""
    if args.config is not None:
        raise UserError("--exported_model has its own config; leave --config out, or name --trained_model")
    config = make_config(read_description(args.exported_model)["config"])
    cfg.update_in_place(config)
    _apply_options(args)
    if (cfg.max_size, cfg.num_classes) != (config.max_size, config.num_classes):
        raise UserError(f"the exported network is for {config.max_size} pixels and {config.num_classes - 1} classes, "
                        f"not for {cfg.max_size} and {cfg.num_classes - 1}; export another one")
    return os.path.join(args.exported_model, DESCRIPTION)


def _apply_options(args: argparse.Namespace) -> None:
    class_names = cfg.dataset.class_names
    if args.dataset is not None:
        set_dataset(args.dataset)
    apply_overrides(args.override)
    if cfg.dataset.class_names is None:  # the network has those that it was trained with
        cfg.dataset.class_names = class_names or class_names_of(cfg.dataset)
    if args.detect:
        cfg.eval_mask_branch = False


# --- data sets --------------------------------------------------------------------------------------------------


def evaluate(predictor: Predictor, dataset: COCODetection, order: list[int], results: CocoResults | ResultJournal,
             bar: bool = True) -> list[int]:
    """Detect in images of a data set. Reading is ahead of the network, encoding and writing behind it.

    Args:
        predictor: runs the network. dataset: what is read. order: positions in dataset.ids.
        results: takes what is found. bar: show a progress bar.

    Returns:
        positions of the images as evaluated (with several ranks, the first one's order). An image that cannot be read
        costs a warning; its objects count as missed. Several ranks share the images, and all get all results.
    """
    order = ranks.gathered(order)[0]  # of a random order, that of the first rank
    share = list(enumerate(order))[ranks.rank()::ranks.count()]
    left = [(place, position) for place, position in share if place not in results.done]

    def pictures():
        for place, position in left:
            yield (place, position), dataset.try_load_image(position)

    with Behind(results.add) as add, tqdm(
            predictor.detect_many(pictures()), total=len(share), initial=len(share) - len(left), desc="Evaluating",
            unit="image", disable=not bar or ranks.rank() > 0, dynamic_ncols=True) as progress:
        for (place, position), _, found in progress:
            add(place, dataset.ids[position], found)
    if ranks.count() > 1:
        results.merge(ranks.gathered(results.part()))
    return order


def first_pictures(dataset: COCODetection, order: Sequence[int], results: CocoResults | ResultJournal, most: int
                   ) -> list[tuple[int, np.ndarray, Instances]]:
    """The first images that can be read, with what was found in them.

    Args:
        order, results: as `evaluate` left them. most: so many images at most.

    Returns: list of (position in dataset.ids, uint8 [H, W, 3] BGR, what was found).
    """
    coco_format = CocoFormat(dataset.label_map)
    pictures: list[tuple[int, np.ndarray, Instances]] = []
    for place, position in enumerate(order):
        if len(pictures) == most:
            break
        image = dataset.try_load_image(position)
        if image is not None:
            found = coco_format.instances(results.of_place(place), dataset.class_names, *image.shape[:2])
            pictures.append((position, image, found))
    return pictures


def load_validation_set(content: dict[str, Any] | None = None) -> COCODetection:
    """The data set that cfg.dataset.valid_* names.

    Args:
        content: what its annotation file holds, if it has been read already.
    """
    return load_dataset(cfg.dataset, build_augmentation(cfg, MEANS, STD, training=False), content=content)


def chosen_images(dataset: COCODetection, args: argparse.Namespace, most: int | None = None) -> list[int]:
    """Positions of the images to evaluate; without --max_images at most `most`."""
    if args.max_images == 0:
        raise UserError("--max_images=0 leaves nothing to evaluate; -1 takes all images")
    order = image_order(dataset.ids, args.shuffle, args.no_sort)
    return order[:args.max_images] if args.max_images > 0 else order[:most]


def evaluate_dataset(predictor: Predictor, args: argparse.Namespace, path: str) -> None:
    """The command without pictures or video: metrics, report, result files."""
    dataset = load_validation_set()
    order = chosen_images(dataset, args)
    files = output_files(args, cfg.name, predictor.has_masks, dataset.has_gt, dataset.info_file)
    with journal_of(args, cfg, path, dataset.label_map, predictor.has_masks,
                    [dataset.ids[position] for position in order]) as journal:
        order = evaluate(predictor, dataset, order, journal, not args.no_bar)
        if ranks.rank() > 0:
            return
        if args.output_coco_json:
            journal.write(files["bbox"], files.get("segm"))
            write_zip(files["archive"], files.get("segm", files["bbox"]))
        image_ids = [dataset.ids[position] for position in order]
        metrics = measure(dataset, journal, image_ids, files, args)
        names = class_names_by_category(dataset.label_map, dataset.class_names)
        if "web" in files:
            write_web_json(files["web"], journal, image_ids, names, {"name": cfg.name, "max_size": cfg.max_size})
        if "comparison" in files:
            write_comparison(dataset, order, journal, metrics, files["comparison"])
        if "report" in files:
            report(dataset, names, image_ids, journal, metrics, files["report"], bar=not args.no_bar)
        journal.remove()
    tell(list(files.values()))


def measure(dataset: COCODetection, journal: ResultJournal, image_ids: Sequence[Any], files: Mapping[str, str],
            args: argparse.Namespace) -> dict[str, Any]:
    """COCO's figures, printed and written; {} for a data set without annotations."""
    if not dataset.has_gt:
        if not args.output_coco_json:
            print(f"{dataset.info_file} has no annotations, so there is nothing to measure; --output_coco_json "
                  "writes the detections for the test server")
        return {}
    metrics, text = evaluate_results(dataset.coco, journal.lists(), image_ids)
    print(text + (class_table(metrics) if args.classwise else ""))
    write_metrics(files["metrics"], metrics)
    return metrics


def write_comparison(dataset: COCODetection, order: Sequence[int], journal: ResultJournal, metrics: Mapping[str, Any],
                     path: str) -> None:
    """The first pictures beside their ground truth."""
    items = []
    for position, image, found in first_pictures(dataset, order, journal, PAGE_PICTURES):
        classes, masks, boxes = dataset.ground_truth(position)
        truth = Instances(classes, None, boxes, masks, dataset.class_names, *image.shape[:2])
        items.append({"image": image, "gt": truth, "pred": found})
    if items:
        title = cfg.name + "".join(f"   {kind} AP {values['AP']:.3f}" for kind, values in metrics.items())
        comparison_page(items, path, title, COLORS)


def report(dataset: COCODetection, names: Mapping[Any, str], image_ids: Sequence[Any], journal: ResultJournal,
           metrics: Mapping[str, Any], path: str, bar: bool) -> None:
    """The page of figures and images, and what it loads."""
    positions = {image_id: position for position, image_id in enumerate(dataset.ids)}
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    write_report(os.path.dirname(path), cfg.name, names, dataset.coco, image_ids,
                 lambda image_id: journal.of_place(places[image_id]),
                 lambda image_id: dataset.try_load_image(positions[image_id]), metrics, bar)


def benchmark(predictor: Predictor, args: argparse.Namespace) -> None:
    """Time the stages on the data set's images, after a warm-up on the first one."""
    dataset = load_validation_set()
    order = chosen_images(dataset, args, BENCHMARK_IMAGES)
    on_gpu = paddle.device.get_device().startswith("gpu")
    warm_up, watch = Stopwatch(), Stopwatch(paddle.device.cuda.synchronize if on_gpu else None)
    count = 0
    for position in tqdm(order, desc="Timing", unit="image", disable=args.no_bar, dynamic_ncols=True):
        if count == 0 and not time_picture(predictor, dataset.try_load_image, position, warm_up):
            continue
        count += time_picture(predictor, dataset.try_load_image, position, watch)
    if count == 0:
        raise UserError(f"no image could be read from {dataset.image_path}; correct dataset.valid_images")
    print(f"{cfg.name}, {count} images, batch 1, one stage after the other\n{watch.table()}\n"
          "load: reading and decoding the file; transform: resize and normalisation; network: to its outputs; "
          "detection: scores, boxes, NMS; masks: from prototypes to the picture's size; encode: COCO run lengths. "
          "Not included: loading the network, a warm-up on the first image, writing results.")


def display_dataset(predictor: Predictor, args: argparse.Namespace) -> None:
    """--display without pictures: show the data set's, one after the other, until the window is closed."""
    dataset = load_validation_set()
    window = open_window(cfg.name)
    for position in chosen_images(dataset, args):
        image = dataset.try_load_image(position)
        if image is not None:
            drawn = predictor.draw(image, predictor.detect(image), **draw_options(args))
            if not window.show(drawn, None):
                break
    window.close()


# --- the command ------------------------------------------------------------------------------------------------


def check_options(args: argparse.Namespace, mode: str) -> None:
    """Tell of options that have no effect, and refuse those that cannot work."""
    for name, instead in OBSOLETE.items():
        if getattr(args, name):
            logging.warning("--%s has no effect: %s", name, instead)
    for name in WITHOUT_EFFECT[mode]:
        if getattr(args, name) not in (None, False, -1):
            logging.warning("--%s has no effect with --%s", name, mode)
    if args.display_lincomb and (args.detect or not cfg.eval_mask_branch or cfg.mask_type != "lincomb"):
        raise UserError("--display_lincomb: this network has no prototypes (or --detect leaves them out)")
    if ranks.count() > 1 and mode in ("video", "benchmark", "display"):
        raise UserError(f"--{mode} is for one process; start it without the launcher")
    if not args.fast_nms and args.cross_class_nms:
        logging.warning("--cross_class_nms has no effect on traditional NMS")


def mode_of(args: argparse.Namespace) -> str:
    """What the command line asks for: image, images, video, display, benchmark or dataset."""
    for mode in ("image", "images", "video"):
        if getattr(args, mode) is not None:  # an empty one, of a variable that is not set, is a mistake
            return mode
    return "display" if args.display else "benchmark" if args.benchmark else "dataset"


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    if args.seed is not None:
        seed_everything(args.seed)
    path = configure_exported(args) if args.exported_model else configure(args)
    mode = mode_of(args)
    check_options(args, mode)
    pairs = one_picture(args.image, args.output_folder) if mode == "image" else None
    pairs = folder_of_pictures(args.images) if mode == "images" else pairs
    for_people = mode in ("image", "images", "video", "display")
    if for_people:
        args.top_k = SHOWN_TOP_K if args.top_k is None else args.top_k
        args.score_threshold = SHOWN_SCORE_THRESHOLD if args.score_threshold is None else args.score_threshold
    device = select_device(args.cuda)
    ranks.join()
    ranks.silence_others()
    set_threads()
    how = (args.backend, args.precision, None if mode in ("images", "dataset") else 1)
    if args.exported_model:
        net = load_exported(args.exported_model, device == "gpu", *how)
        engine = net.engine
    else:
        net, engine = open_network(path, cfg, *how, use_gpu=device == "gpu")
    predictor = Predictor(net, cfg, args.fast_nms, args.cross_class_nms, args.crop, args.score_threshold or 0.0,
                          args.top_k, one_score=for_people)
    print(f"{cfg.name} from {path}, in {engine}")
    if pairs:
        detect_pictures(predictor, pairs, args, cfg, path)
    elif mode == "dataset":
        evaluate_dataset(predictor, args, path)
    else:
        {"video": detect_video, "display": display_dataset, "benchmark": benchmark}[mode](predictor, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1, Ctrl-C and SIGTERM in one line and 130."""
    set_up_messages()
    args = parse_args(argv)
    args.output_coco_json |= args.output_web_json  # as the original
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that files are closed then, too
    try:
        run(args)
    except USER_ERRORS as error:
        sys.exit(f"eval.py: error: {error}")
    except KeyboardInterrupt:
        logging.warning("interrupted")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
