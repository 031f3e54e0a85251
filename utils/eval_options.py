"""The options of eval.py: those of the original, and those that came after it."""
from __future__ import annotations

import argparse
from typing import Any, Callable

from utils.config_options import add_config_options
from utils.engines import BACKENDS, PRECISIONS
from utils.predictor import SHOWN_SCORE_THRESHOLD, SHOWN_TOP_K
from utils.runtime import seed_number, str2bool, threshold, whole_number

PAGE_PICTURES = 12  # of --comparison
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser all options."""
    add = parser.add_argument
    add("--trained_model", default="latest",
        help="weights of any format (.pdparams, .pth, .safetensors, .npz); a released network's name (yolact_base), "
             "which is downloaded into --save_folder; 'latest' or 'interrupt': the newest checkpoint of --config there "
             "(default: %(default)s)")
    add("--exported_model", metavar="DIR", help="a folder that tools/export.py wrote, in place of --trained_model")
    add_config_options(add, example="nms_thresh=0.4 dataset.valid_info=val.json")
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
    add("--ap_data_file", help=f"accepted for old scripts: {OBSOLETE['ap_data_file']}")
    add("--mask_proto_debug", action="store_true", help=f"accepted for old scripts: {OBSOLETE['mask_proto_debug']}")


def _add_dataset_options(add: Callable[..., Any]) -> None:
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


def _add_detection_options(add: Callable[..., Any]) -> None:
    add("--fast_nms", type=str2bool, default=True, help="False: traditional NMS (default: %(default)s)")
    add("--cross_class_nms", type=str2bool, default=False, help="NMS across classes (default: %(default)s)")
    add("--detect", action="store_true", help="boxes only, without the mask branch")
    add("--no_crop", dest="crop", action="store_false", help="do not cut masks to their boxes")
    add("--score_threshold", type=threshold,
        help=f"drop detections scored at or below (default: 0, for pictures and video {SHOWN_SCORE_THRESHOLD})")
    add("--top_k", type=whole_number,
        help=f"keep at most so many detections an image (default: all, for pictures and video {SHOWN_TOP_K})")


def _add_picture_options(group: Any) -> None:
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
