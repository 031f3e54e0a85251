"""Evaluate YOLACT: COCO metrics, COCO result files, or pictures with detections.

    python eval.py --trained_model=weights/yolact_base_54_800000.pdparams
    python eval.py --trained_model=... --output_coco_json --dataset=coco2017_testdev_dataset
    python eval.py --trained_model=... --image=in.jpg:out.png
    python eval.py --trained_model=... --images=in_folder:out_folder
"""
import argparse
import functools
import logging
import os
import sys
import time

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, seed_everything, select_device, set_threads, set_up_messages, str2bool

# isort: split
import numpy as np
import paddle
from tqdm import tqdm

from data.coco import COCODetection, image_order
from data.config import COLORS, MEANS, STD, ConfigError, apply_overrides, cfg, get_config, set_cfg, set_dataset
from data.images import DatasetError, read_image
from layers.output_utils import postprocess
from utils import ranks
from utils.augmentations import base_transform, build_augmentation
from utils.checkpoint import check_writable, find, name_of_config, network_differences
from utils.coco_results import CocoResults, evaluate_results, write_metrics
from utils.pictures import folder_of_pictures, one_picture
from utils.released import weights_file
from utils.visualize import comparison_page, draw_detections, write_image
from utils.weights import load_weights, read_weights, saved_config
from yolact import Yolact, build_detect

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
PAGE_PICTURES = 12
DEMO_TOP_K, DEMO_SCORE_THRESHOLD = 15, 0.15
BENCHMARK_IMAGES = 20


def seed_number(text):
    """argparse type of --seed: what every generator takes."""
    if not (text.isdigit() and int(text) < 2 ** 32):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; write an integer from 0 to 4294967295")
    return int(text)


def parse_args(argv=None):
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--trained_model", default="latest",
        help="weights of any format (.pdparams, .pth, .safetensors, .npz); a released network's name (yolact_base), "
             "which is downloaded into --save_folder; 'latest' or 'interrupt': the newest checkpoint of --config there "
             "(default: %(default)s)")
    add("--config", help="a config of data/config.py (default: the one saved with the weights, else the one "
                         "that their file is named after)")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, nested with dots: -o nms_thresh=0.4 dataset.valid_info=val.json")
    add("--save_folder", default="weights/", help="of 'latest' and 'interrupt' (default: %(default)s)")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--seed", type=seed_number, help="seed for --shuffle")
    add("--no_bar", action="store_true", help="no progress bar")
    _add_dataset_options(parser.add_argument_group("evaluation of a data set").add_argument)
    _add_detection_options(parser.add_argument_group("detection").add_argument)
    _add_picture_options(parser.add_argument_group("pictures"))
    return parser.parse_args(argv)


def _add_dataset_options(add):
    add("--output_coco_json", action="store_true", help="write detections as COCO result files")
    add("--output_folder", default="results", help="folder of all results (default: %(default)s)")
    add("--bbox_det_file", help="COCO box results (default: bbox_detections.json in --output_folder)")
    add("--mask_det_file", help="COCO mask results (default: mask_detections.json in --output_folder)")
    add("--comparison", action="store_true",
        help=f"draw the first {PAGE_PICTURES} images beside their ground truth into predictions.png")
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
    add("--score_threshold", type=float,
        help=f"drop detections scored at or below (default: 0, for pictures {DEMO_SCORE_THRESHOLD})")
    add("--top_k", type=int,
        help=f"keep at most so many detections an image (default: all, for pictures {DEMO_TOP_K})")


def _add_picture_options(group):
    which = group.add_mutually_exclusive_group()
    which.add_argument("--image", metavar="IN[:OUT]", help="one picture (OUT: else in --output_folder)")
    which.add_argument("--images", metavar="IN:OUT", help="all pictures of a folder")
    for part in ("masks", "bboxes", "text", "scores"):
        group.add_argument(f"--display_{part}", type=str2bool, default=True,
                           help=f"draw {part} (default: %(default)s)")


def configure(args):
    """Fill the global cfg: the config (named, saved with the weights, in their name), --dataset, then -o.

    Returns the path of the weights.
    """
    path = args.trained_model
    if args.config is not None:
        set_cfg(args.config)
    if path in ("latest", "interrupt"):
        if args.config is None:
            raise UserError(f"--trained_model={path} needs --config, to know whose it is; or name a file")
        path = find(args.save_folder, path, cfg.name)
    else:
        path = weights_file(path, args.save_folder, get_config, bar=not args.no_bar)
    saved = saved_config(path)
    if args.config is None:
        try:
            set_cfg(saved or name_of_config(path))
        except ConfigError as error:
            source = "saved with" if saved else "in the name of"
            raise UserError(f"the config {source} {path} cannot be used: {error}; pass --config") from error
    if args.dataset is not None:
        set_dataset(args.dataset)
    apply_overrides(args.override)
    if args.config is not None and saved is not None:
        for key, theirs, ours in network_differences(saved, cfg.to_dict()):
            logging.warning("%s was trained with %s=%s, and now it is %s", path, key, theirs, ours)
    if args.detect:
        cfg.eval_mask_branch = False
    return path


def load_network(path, config):
    """The network of a config with the weights of a file, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read or does not fit the config.
    """
    net = Yolact(config)
    weights = read_weights(path)
    if not config.eval_mask_branch:
        weights = {name: array for name, array in weights.items()
                   if not name.startswith(("proto_net.", "maskiou_net."))}
    load_weights(net, weights)
    net.eval()
    return net


class Predictor:
    """Picture in, detections in pixels out: transform, network, detection and mask assembly.

    Args:
        net: Yolact in evaluation mode. config: its configuration.
        use_fast_nms, cross_class_nms, crop, score_threshold, top_k: as the options; top_k None keeps all.
        one_score: a network that re-scores masks gives boxes their scores too, as pictures show one score an object.
    """

    STAGES = ("transform", "network", "detection", "masks")

    def __init__(self, net, config, use_fast_nms=True, cross_class_nms=False, crop=True, score_threshold=0.0,
                 top_k=None, one_score=False):
        self.net = net
        self.transform = functools.partial(
            base_transform, max_size=config.max_size, transform=config.backbone.transform, means=MEANS, std=STD,
            preserve_aspect_ratio=config.preserve_aspect_ratio)
        self.detect = build_detect(config, use_fast_nms, cross_class_nms)
        maskiou_net = net.maskiou_net if config.rescore_mask else None
        self.rescore_bbox = maskiou_net is not None and (one_score or config.rescore_bbox)
        self.postprocess = functools.partial(
            postprocess, score_threshold=score_threshold, crop_masks=crop and config.mask_proto_crop,
            direct_masks=config.mask_type == "direct" and config.eval_mask_branch, maskiou_net=maskiou_net,
            rescore_bbox=self.rescore_bbox)
        self.score_threshold = score_threshold
        self.top_k = top_k
        self.seconds = dict.fromkeys(self.STAGES, 0.0)

    @paddle.no_grad()
    def __call__(self, image_bgr):
        """image_bgr: uint8 [H, W, 3] -> layers.output_utils.Detections of ndarrays."""
        height, width = image_bgr.shape[:2]
        clock = [time.perf_counter()]
        image = self.transform(image_bgr)
        clock.append(time.perf_counter())
        out = self.net(paddle.to_tensor(image[np.newaxis]))
        clock.append(time.perf_counter())
        detection = self.detect(out)[0]
        if self.top_k is not None and not self.rescore_bbox:  # masks of the others need not be made
            detection.update({key: detection[key][:self.top_k] for key in ("box", "class", "score", "mask")})
        clock.append(time.perf_counter())
        found = self.postprocess(detection, width, height).numpy()
        if self.rescore_bbox:
            found = found.best(self.top_k, self.score_threshold)
        clock.append(time.perf_counter())
        for stage, start, stop in zip(self.STAGES, clock, clock[1:]):
            self.seconds[stage] += stop - start
        return found


def evaluate(predictor, dataset, order, bar=True, keep=0):
    """Detect in images of a data set.

    Args:
        predictor: Predictor. dataset: COCODetection. order: positions in dataset.ids.
        bar: show a progress bar. keep: keep so many images with their detections, for a page of pictures.

    Returns:
        (CocoResults, ids of the images, list of at most `keep` (position, detections)). An image that cannot
        be read costs a warning; its objects count as missed. Several ranks share the images, and all get all results;
        the images kept are those of the first rank.
    """
    results = CocoResults(dataset.label_map)
    kept = []
    order = ranks.gathered(order)[0]  # of a random order, that of the first rank
    share = order[ranks.rank()::ranks.count()]
    for position in tqdm(share, desc="Evaluating", unit="image", disable=not bar or ranks.rank() > 0,
                         dynamic_ncols=True):
        image = dataset.try_load_image(position)
        if image is None:
            continue
        found = predictor(image)
        results.add(dataset.ids[position], found.classes, found.boxes, found.scores, found.masks, found.mask_scores)
        results.has_masks = found.masks is not None
        if len(kept) < keep:
            masks = np.zeros((len(found.classes), *image.shape[:2]), bool) if found.masks is None else found.masks
            kept.append((position, (found.classes, found.scores, masks, found.boxes)))
    image_ids = [dataset.ids[position] for position in order]
    if ranks.count() > 1:
        results.merge(ranks.gathered(results.to_plain()), image_ids)
    return results, image_ids, kept


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


def evaluate_dataset(predictor, args):
    """The command without --image(s): metrics, result files, a page of pictures."""
    check_writable(args.output_folder, "--output_folder")
    dataset = load_validation_set()
    order = chosen_images(dataset, args)
    keep = PAGE_PICTURES if args.comparison and dataset.has_gt else 0
    results, image_ids, kept = evaluate(predictor, dataset, order, bar=not args.no_bar, keep=keep)
    if ranks.rank() > 0:
        return

    written = []
    if args.output_coco_json:
        bbox_file = args.bbox_det_file or os.path.join(args.output_folder, "bbox_detections.json")
        mask_file = args.mask_det_file or os.path.join(args.output_folder, "mask_detections.json")
        results.write(bbox_file, mask_file if results.has_masks else None)
        written += [bbox_file] + ([mask_file] if results.has_masks else [])
    title = cfg.name
    if dataset.has_gt:
        metrics, text = evaluate_results(dataset.coco, results, image_ids)
        print(text)
        written.append(os.path.join(args.output_folder, "metrics.json"))
        write_metrics(written[-1], metrics)
        title += "".join(f"   {kind} AP {values['AP']:.3f}" for kind, values in metrics.items())
    elif not args.output_coco_json:
        print(f"{dataset.info_file} has no annotations, so there is nothing to measure; --output_coco_json "
              "writes the detections for the test server")
    if kept:
        written.append(os.path.join(args.output_folder, "predictions.png"))
        items = [{"image": dataset.load_image(position), "gt": dataset.ground_truth(position), "pred": found}
                 for position, found in kept]
        comparison_page(items, written[-1], title, cfg.dataset.class_names, COLORS)
    print("\n".join(f"written: {path}" for path in written))


def benchmark(predictor, args):
    """Time the stages on the data set's images, after a warm-up on the first one."""
    dataset = load_validation_set()
    order = chosen_images(dataset, args, BENCHMARK_IMAGES)
    count = 0
    for position in tqdm(order, desc="Timing", unit="image", disable=args.no_bar, dynamic_ncols=True):
        image = dataset.try_load_image(position)
        if image is None:
            continue
        if count == 0:
            predictor(image)
            predictor.seconds = dict.fromkeys(predictor.STAGES, 0.0)
        predictor(image)
        count += 1
    if count == 0:
        raise UserError(f"no image could be read from {dataset.image_path}; correct dataset.valid_images")
    total = sum(predictor.seconds.values())
    print(f"{count} images, batch 1, reading them not included; mean milliseconds an image")
    for stage, seconds in predictor.seconds.items():
        print(f"  {stage:10s} {1000 * seconds / count:8.1f}")
    print(f"  {'total':10s} {1000 * total / count:8.1f}   {count / total:.2f} FPS")


def detect_pictures(predictor, pairs, args):
    """Write pictures with their detections drawn; one bad file of several costs a warning."""
    written = []
    pairs = pairs[ranks.rank()::ranks.count()]
    hide_bar = args.no_bar or len(pairs) == 1
    for source, target in tqdm(pairs, desc="Detecting", unit="image", disable=hide_bar, dynamic_ncols=True):
        try:
            image = read_image(source, apply_orientation=True)
        except DatasetError as error:
            if len(pairs) == 1:
                raise
            logging.warning("a picture is skipped: %s", error)
            continue
        found = predictor(image)
        drawn = draw_detections(
            image, found.classes, found.scores, found.boxes, found.masks, cfg.dataset.class_names, args.display_masks,
            args.display_bboxes, args.display_text, args.display_scores, COLORS)
        write_image(target, drawn)
        written.append(target)
    if not written and pairs:
        raise UserError("none of the pictures could be read; see the warnings above")
    print("\n".join(f"written: {path}" for path in written))


def run(args):
    """Everything but the handling of the user's mistakes."""
    if args.seed is not None:
        seed_everything(args.seed)
    path = configure(args)
    pairs = None
    if args.image or args.images:
        pairs = one_picture(args.image, args.output_folder) if args.image else folder_of_pictures(args.images)
        args.top_k = DEMO_TOP_K if args.top_k is None else args.top_k
        args.score_threshold = DEMO_SCORE_THRESHOLD if args.score_threshold is None else args.score_threshold
    device = select_device(args.cuda)
    ranks.join()
    set_threads()
    predictor = Predictor(load_network(path, cfg), cfg, args.fast_nms, args.cross_class_nms, args.crop,
                          args.score_threshold or 0.0, args.top_k, one_score=pairs is not None)
    print(f"{cfg.name} from {path}, on {device}")
    if args.fast_nms is False and args.cross_class_nms:
        logging.warning("--cross_class_nms has no effect on traditional NMS")
    if pairs is not None:
        detect_pictures(predictor, pairs, args)
    elif args.benchmark:
        benchmark(predictor, args)
    else:
        evaluate_dataset(predictor, args)


def main(argv=None):
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        run(args)
    except USER_ERRORS as error:
        sys.exit(f"eval.py: error: {error}")


if __name__ == "__main__":
    main()
