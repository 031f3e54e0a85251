"""Evaluate YOLACT: COCO metrics and a report, COCO result files, pictures and video with what was detected.

    python eval.py --trained_model=weights/yolact_base_54_800000.pdparams
    python eval.py --trained_model=... --output_coco_json --dataset=coco2017_testdev_dataset
    python eval.py --trained_model=... --image=in.jpg:out.png
    python eval.py --trained_model=... --images=in_folder:out_folder
    python eval.py --trained_model=... --video=in.mp4:out.mp4

In a program: utils.predictor.load_predictor.
"""
import argparse
import contextlib
import functools
import logging
import os
import signal
import sys

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import (
    UserError,
    seed_everything,
    seed_number,
    select_device,
    set_threads,
    set_up_messages,
    str2bool,
    threshold,
    whole_number,
)

# isort: split
import paddle
from tqdm import tqdm

from data.coco import COCODetection, image_order
from data.config import COLORS, MEANS, STD, ConfigError, apply_overrides, cfg, make_config, set_dataset
from data.images import DatasetError
from utils import ranks
from utils.augmentations import build_augmentation
from utils.checkpoint import check_writable, network_differences
from utils.coco_results import CocoFormat, class_table, evaluate_results, write_json, write_metrics
from utils.comparison import comparison_page
from utils.engines import BACKENDS, PRECISIONS
from utils.exported import DESCRIPTION, load_exported, read_description
from utils.in_out import check_another
from utils.instances import Instances
from utils.lincomb import lincomb_figure
from utils.networks import locate, open_network
from utils.overlap import Behind
from utils.pictures import detect_files, folder_of_pictures, image_info, one_picture, picture_ids
from utils.predictor import SHOWN_SCORE_THRESHOLD, SHOWN_TOP_K, Predictor, as_image
from utils.report import write_report
from utils.result_journal import archive_name, check_outputs, open_journal, run_of, write_web_json, write_zip
from utils.screen import open_window
from utils.stopwatch import Stopwatch, time_picture
from utils.video import VideoSource, run_video, video_in_out
from utils.video_file import VideoFile
from utils.visualize import write_image

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
PAGE_PICTURES = 12
MOST_NAMED = 20  # files that were written
BENCHMARK_IMAGES = 20
# Options that a mode does not know, of those that a user may expect something of.
WITHOUT_EFFECT = {
    "image": ("benchmark", "max_images", "output_web_json", "comparison", "classwise"),
    "video": ("benchmark", "max_images", "output_web_json", "comparison", "classwise", "output_coco_json", "resume",
              "display", "display_lincomb"),
    "display": ("benchmark", "output_coco_json", "resume", "comparison", "classwise", "display_lincomb"),
    "benchmark": ("output_coco_json", "resume", "comparison", "classwise", "display_lincomb"),
    "dataset": ("display_lincomb",),
}
WITHOUT_EFFECT["images"] = WITHOUT_EFFECT["image"]
OBSOLETE = {"ap_data_file": "--output_folder keeps the detections while they are made, and --resume goes on from them",
            "mask_proto_debug": "--display_lincomb=True draws the prototypes"}


def parse_args(argv=None):
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--trained_model", default="latest",
        help="weights of any format (.pdparams, .pth, .safetensors, .npz); a released network's name (yolact_base), "
             "which is downloaded into --save_folder; 'latest' or 'interrupt': the newest checkpoint of --config there "
             "(default: %(default)s)")
    add("--exported_model", metavar="DIR", help="a folder that tools/export.py wrote, in place of --trained_model")
    add("--config", help="a config of data/config.py (default: the one saved with the weights, else the one "
                         "that their file is named after)")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, nested with dots: -o nms_thresh=0.4 dataset.valid_info=val.json")
    add("--save_folder", default="weights/", help="of 'latest' and 'interrupt' (default: %(default)s)")
    add("--output_folder", default="results", help="folder of all results (default: %(default)s)")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--backend", choices=("auto", *BACKENDS), default="auto",
        help="what runs the network; auto: Paddle on a GPU, else the fastest that is installed (requirements-fast.txt) "
             "(default: %(default)s)")
    add("--precision", choices=PRECISIONS, default="fp32",
        help="bf16: about twice as fast and more on processors with units for it, with OpenVINO; and on GPUs "
             "(default: %(default)s)")
    add("--seed", type=seed_number, help="seed for --shuffle")
    add("--no_bar", action="store_true", help="no progress bar")
    _add_dataset_options(parser.add_argument_group("evaluation of a data set").add_argument)
    _add_detection_options(parser.add_argument_group("detection").add_argument)
    _add_picture_options(parser.add_argument_group("pictures and video"))
    for name, instead in OBSOLETE.items():
        kind = {"action": "store_true"} if name == "mask_proto_debug" else {}
        add(f"--{name}", help=f"accepted for old scripts: {instead}", **kind)
    return parser.parse_args(argv)


def _add_dataset_options(add):
    add("--output_coco_json", action="store_true",
        help="write detections as COCO result files, and the archive for COCO's server; of --image(s) those drawn")
    add("--bbox_det_file", help="COCO box results (default: bbox_detections.json in --output_folder)")
    add("--mask_det_file", help="COCO mask results (default: mask_detections.json in --output_folder)")
    add("--resume", action="store_true", help="go on with a run that was interrupted")
    add("--classwise", action="store_true", help="print the AP of every class")
    add("--no_report", dest="report", action="store_false", help="do not write report/index.html")
    add("--comparison", action="store_true",
        help=f"draw the first {PAGE_PICTURES} images beside their ground truth into predictions.png")
    add("--output_web_json", action="store_true", help="write what the original's web viewer reads as well")
    add("--web_det_path", default="web/dets/", help="folder of --output_web_json (default: %(default)s)")
    add("--max_images", type=int, default=-1, help="so many images at most; -1 all (default: %(default)s)")
    add("--shuffle", action="store_true", help="take the images in random order")
    add("--no_sort", action="store_true", help="take the images in the file's order, not by a hash")
    add("--benchmark", action="store_true",
        help=f"time the stages on --max_images images (default: {BENCHMARK_IMAGES}); write nothing")


def _add_detection_options(add):
    add("--fast_nms", type=str2bool, default=True, help="False: traditional NMS (default: %(default)s)")
    add("--cross_class_nms", type=str2bool, default=False, help="NMS across classes (default: %(default)s)")
    add("--detect", action="store_true", help="boxes only, without the mask branch")
    add("--no_crop", dest="crop", action="store_false", help="do not cut masks to their boxes")
    add("--score_threshold", type=threshold,
        help=f"drop detections scored at or below (default: 0, for pictures and video {SHOWN_SCORE_THRESHOLD})")
    add("--top_k", type=whole_number,
        help=f"keep at most so many detections an image (default: all, for pictures and video {SHOWN_TOP_K})")


def _add_picture_options(group):
    which = group.add_mutually_exclusive_group()
    which.add_argument("--image", metavar="IN[:OUT]", help="one picture (OUT: else in --output_folder)")
    which.add_argument("--images", metavar="IN:OUT", help="all pictures of a folder and the folders in it")
    which.add_argument("--video", metavar="IN[:OUT]",
                       help="a video, or the number of a camera; without OUT it is shown in a window")
    add = group.add_argument
    add("--display", action="store_true", help="show each picture in a window (of the data set without --image(s))")
    for part in ("masks", "bboxes", "text", "scores"):
        add(f"--display_{part}", type=str2bool, default=True, help=f"draw {part} (default: %(default)s)")
    add("--color_by", choices=("instance", "class"), default="instance",
        help="what a colour stands for (default: %(default)s)")
    add("--display_lincomb", type=str2bool, default=False,
        help="draw how the best detection's mask is made of prototypes, beside the result (default: %(default)s)")
    add("--video_multiframe", type=whole_number, default=1, metavar="N",
        help="frames that the network takes at once (default: %(default)s)")
    add("--display_fps", action="store_true", help="draw the frame rate of the processing on the video")
    add("--emulate_playback", action="store_true", help="write a video no faster than it would play")


# --- what to evaluate -------------------------------------------------------------------------------------------


def configure(args):
    """Fill the global cfg: the config of the weights, --dataset, then -o. Returns the path of the weights."""
    path, config, saved = locate(args.trained_model, args.config, args.save_folder, not args.no_bar)
    cfg.update_in_place(config)
    _apply_options(args)
    if args.config is not None and saved is not None:
        for key, theirs, ours in network_differences(saved, cfg.to_dict()):
            logging.warning("%s was trained with %s=%s, and now it is %s", path, key, theirs, ours)
    return path


def configure_exported(args):
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


def _apply_options(args):
    if args.dataset is not None:
        set_dataset(args.dataset)
    apply_overrides(args.override)
    if args.detect:
        cfg.eval_mask_branch = False


# --- data sets --------------------------------------------------------------------------------------------------


def evaluate(predictor, dataset, order, results, bar=True):
    """Detect in images of a data set. Reading is ahead of the network, encoding and writing behind it.

    Args:
        predictor: Predictor. dataset: COCODetection. order: positions in dataset.ids.
        results: takes what is found, utils.coco_results.CocoResults or utils.result_journal.ResultJournal.
        bar: show a progress bar.

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


def first_pictures(dataset, order, results, most):
    """The first images that can be read, with what was found in them.

    Args:
        dataset: COCODetection. order, results: as `evaluate` left them. most: so many images at most.

    Returns: list of (position in dataset.ids, uint8 [H, W, 3] BGR, Instances).
    """
    coco_format, pictures = CocoFormat(dataset.label_map), []
    for place, position in enumerate(order):
        if len(pictures) == most:
            break
        image = dataset.try_load_image(position)
        if image is not None:
            found = coco_format.instances(results.of_place(place), dataset.class_names, *image.shape[:2])
            pictures.append((position, image, found))
    return pictures


def load_validation_set():
    """The data set that cfg.dataset.valid_* names."""
    dataset = cfg.dataset
    transform = build_augmentation(cfg, MEANS, STD, training=False)
    return COCODetection(dataset.valid_images, dataset.valid_info, transform, dataset.class_names,
                         dataset.label_map, has_gt=dataset.has_gt, name=dataset.name)


def chosen_images(dataset, args, most=None):
    """Positions of the images to evaluate; without --max_images at most `most`."""
    if args.max_images == 0:
        raise UserError("--max_images=0 leaves nothing to evaluate; -1 takes all images")
    order = image_order(dataset.ids, args.shuffle, args.no_sort)
    return order[:args.max_images] if args.max_images > 0 else order[:most]


def journal_of(args, path, label_map, has_masks, images):
    """The journal of this run; `images` tells the images and their order, `path` is what decides the network."""
    check_writable(args.output_folder, "--output_folder")
    options = ("fast_nms", "cross_class_nms", "detect", "crop", "score_threshold", "top_k", "precision")
    run = run_of(path, cfg.to_dict(), images, {f"--{name}": getattr(args, name) for name in options})
    return open_journal(args.output_folder, run, len(images), CocoFormat(label_map), has_masks, args.resume)


def output_files(args, has_masks, has_gt, info_file):
    """{kind: path} of what the evaluation of a data set is to write; refuses what cannot be written."""
    check_writable(args.output_folder, "--output_folder")
    here = functools.partial(os.path.join, args.output_folder)
    files = {}
    if args.output_coco_json:
        files.update(result_files(args, has_masks))
        files["archive"] = here(archive_name(info_file, cfg.name))
    if has_gt:
        files["metrics"] = here("metrics.json")
    if args.output_web_json:
        files["web"] = os.path.join(args.web_det_path, f"{cfg.name}.json")
    if has_gt and args.comparison:
        files["comparison"] = here("predictions.png")
    if args.report and (has_gt or args.output_web_json):
        files["report"] = here("report", "index.html")
    check_outputs(list(files.values()))
    return files


def result_files(args, has_masks):
    """{"bbox": path, "segm": path} of the COCO result files."""
    files = {"bbox": args.bbox_det_file or os.path.join(args.output_folder, "bbox_detections.json")}
    masks = args.mask_det_file or os.path.join(args.output_folder, "mask_detections.json")
    if has_masks:
        files["segm"] = masks
    elif os.path.exists(masks):
        logging.warning("%s is of an earlier run: this one has no masks", masks)
    return files


def evaluate_dataset(predictor, args, path):
    """The command without pictures or video: metrics, report, result files."""
    dataset = load_validation_set()
    order = chosen_images(dataset, args)
    files = output_files(args, predictor.has_masks, dataset.has_gt, dataset.info_file)
    with journal_of(args, path, dataset.label_map, predictor.has_masks,
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


def measure(dataset, journal, image_ids, files, args):
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


def class_names_by_category(label_map, class_names):
    """{category id: class name}."""
    return {category: class_names[label - 1] for category, label in label_map.items()}


def write_comparison(dataset, order, journal, metrics, path):
    """The first pictures beside their ground truth."""
    items = []
    for position, image, found in first_pictures(dataset, order, journal, PAGE_PICTURES):
        classes, masks, boxes = dataset.ground_truth(position)
        truth = Instances(classes, None, boxes, masks, dataset.class_names, *image.shape[:2])
        items.append({"image": image, "gt": truth, "pred": found})
    if items:
        title = cfg.name + "".join(f"   {kind} AP {values['AP']:.3f}" for kind, values in metrics.items())
        comparison_page(items, path, title, COLORS)


def report(dataset, names, image_ids, journal, metrics, path, bar):
    """The page of figures and images, and what it loads."""
    positions = {image_id: position for position, image_id in enumerate(dataset.ids)}
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    write_report(os.path.dirname(path), cfg.name, names, dataset.coco, image_ids,
                 lambda image_id: journal.of_place(places[image_id]),
                 lambda image_id: dataset.try_load_image(positions[image_id]), metrics, bar)


def benchmark(predictor, args):
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


# --- pictures and video -----------------------------------------------------------------------------------------


def draw_options(args):
    """The options of draw_detections that the command line chose."""
    return {"show_masks": args.display_masks, "show_boxes": args.display_bboxes, "show_text": args.display_text,
            "show_scores": args.display_scores, "color_by": args.color_by}


def display_dataset(predictor, args):
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


def detect_pictures(predictor, pairs, args, path):
    """--image and --images: write pictures with their detections drawn; with --output_coco_json result files, too."""
    sources, targets = zip(*pairs)
    ids = picture_ids(sources)
    label_map = cfg.dataset.label_map or {label: label for label in range(1, cfg.num_classes)}
    files = {}
    if args.output_coco_json:
        files = {**result_files(args, predictor.has_masks), "images": os.path.join(args.output_folder, "images.json")}
    figures = [lincomb_path(target) for target in targets] if args.display_lincomb else []
    overwritten = {*sources, *targets}.intersection(figures)
    if overwritten:
        raise UserError(f"--display_lincomb would overwrite {min(overwritten)}; name another place after the colon")
    check_outputs(list(files.values()))
    window = window_or_warning(cfg.name) if args.display else None
    with contextlib.ExitStack() as stack:
        journal = None
        if window is not None:
            stack.callback(window.close)
        if files:
            journal = stack.enter_context(journal_of(args, path, label_map, predictor.has_masks, sources))

        def finish(place, image, found):
            drawn = None
            if found is not None:
                drawn = predictor.draw(image, found, **draw_options(args))
                write_image(targets[place], drawn)
            if journal is not None:
                journal.add(place, ids[place], found)
            return drawn

        share = range(ranks.rank(), len(pairs), ranks.count())
        places = [place for place in share if journal is None or place not in journal.done]
        done, ended = detect_files(predictor, sources, places, finish, window, bar=not args.no_bar and len(pairs) > 1)
        if not any(ranks.gathered(len(done) + len(share) - len(places))):
            raise UserError("none of the pictures could be read; see the warnings above")
        written = [targets[place] for place in done]
        if args.display_lincomb:
            written += [figures[place] for place in (done if ended else share)
                        if draw_lincomb(predictor, sources[place], figures[place], args)]
        if files and ended:
            logging.warning("ended in the window, so there are no result files; --resume goes on")
        elif files and ranks.rank() == 0:
            journal.write(files["bbox"], files.get("segm"))
            names = class_names_by_category(label_map, cfg.dataset.class_names)
            write_json(files["images"], image_info(sources, ids, names), indent=1)
            journal.remove()
            written += files.values()
    tell(written)


def tell(written):
    """Print the names of files; of many pictures, how many and where."""
    if len(written) <= MOST_NAMED:
        print("\n".join(f"written: {path}" for path in written))
        return
    pictures = [path for path in written if not path.endswith(".json")]
    print(f"written: {len(pictures)} pictures in {os.path.commonpath([os.path.dirname(path) for path in pictures])}")
    tell([path for path in written if path.endswith(".json")])


def window_or_warning(title):
    """A window; where there can be none, None and a warning, as the results are written all the same."""
    try:
        return open_window(title)
    except UserError as error:
        logging.warning("--display: %s", error)
        return None


@paddle.no_grad()
def draw_lincomb(predictor, source, path, args):
    """How the mask of the best detection is made of prototypes; returns whether there is one."""
    try:
        image = as_image(source)
    except DatasetError:  # it was told of before
        return False
    [detection] = predictor.detections_of(predictor.network(predictor.transform(image)[None]))
    found, rows = predictor.instances_and_rows(detection, *image.shape[:2])
    if not len(found):
        logging.warning("--display_lincomb: nothing was found in %s", source)
        return False
    title = f"{found.names[0]} {found.scores[0]:.2f} in {os.path.basename(source)}"
    lincomb_figure(path, image, detection["proto"].numpy(), detection["mask"][int(rows[0])].numpy(), found.window(0),
                   found.boxes[0], title, crop=args.crop and cfg.mask_proto_crop)
    return True


def lincomb_path(target):
    """Where the figure of prototypes of a picture goes, beside its result."""
    return os.path.splitext(target)[0] + "_lincomb.png"


def detect_video(predictor, args):
    """--video: a file or a camera, to a file or into a window."""
    source, target = video_in_out(args.video)
    video = VideoSource(source)
    if target is None:
        try:
            sink = open_window(video.name)
        except UserError as error:
            if video.live:
                raise
            target = os.path.join(args.output_folder, os.path.splitext(os.path.basename(source))[0] + ".mp4")
            check_another(source, target)
            logging.warning("%s; writing %s", str(error).partition(";")[0], target)
    if target is not None:
        sink = VideoFile(target, video.fps, video.size)

    def predict(frames):
        return predictor.detect_prepared([predictor.transform(frame) for frame in frames],
                                         [frame.shape[:2] for frame in frames])

    frames, seconds, fps = run_video(video, predict, functools.partial(predictor.draw, **draw_options(args)), sink,
                                     args.video_multiframe, args.display_fps, args.emulate_playback, not args.no_bar)
    print(f"{frames} frames in {seconds:.1f} s, {fps:.2f} FPS from reading to writing")
    if target is not None:
        print(f"written: {target}")


# --- the command ------------------------------------------------------------------------------------------------


def check_options(args, mode):
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


def mode_of(args):
    """What the command line asks for: image, images, video, display, benchmark or dataset."""
    for mode in ("image", "images", "video"):
        if getattr(args, mode) is not None:  # an empty one, of a variable that is not set, is a mistake
            return mode
    return "display" if args.display else "benchmark" if args.benchmark else "dataset"


def run(args):
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
    if ranks.rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process; the first rank tells all)
    set_threads()
    how = (args.backend, args.precision, None if mode in ("images", "dataset") else 1)
    if args.exported_model:
        net = load_exported(args.exported_model, device == "gpu", None, *how)
        engine = net.engine
    else:
        net, engine = open_network(path, cfg, *how, use_gpu=device == "gpu")
    predictor = Predictor(net, cfg, args.fast_nms, args.cross_class_nms, args.crop, args.score_threshold or 0.0,
                          args.top_k, one_score=for_people)
    print(f"{cfg.name} from {path}, in {engine}")
    if pairs:
        detect_pictures(predictor, pairs, args, path)
    elif mode == "dataset":
        evaluate_dataset(predictor, args, path)
    else:
        {"video": detect_video, "display": display_dataset, "benchmark": benchmark}[mode](predictor, args)


def main(argv=None):
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
