"""Export a network for deployment: for Paddle Inference, as ONNX, or both, beside a JSON that describes it.

    python tools/export.py --trained_model=weights/yolact_base_54_800000.pdparams
    python tools/export.py --trained_model=yolact_resnet50 --format=both --out=exported/resnet50 --image=street.jpg
    python tools/export.py --trained_model=weights/yolact_fish_80_20000.pdparams --format=onnx -o nms_thresh=0.4

The folder (default: exported/ and the config's name) gets

    yolact.json          class names and category ids; how a picture is prepared; inputs and outputs with their shapes
                         and meaning; thresholds of the detection; hashes and versions
    network.*            the network: pictures [B, 3, S, S] of any number B -> boxes, classes, mask coefficients,
                         priors, prototypes, in the order of yolact.json. Detection and mask assembly stay outside
    maskiou_net.*        of a YOLACT++ network: masks [N, 1, h, w] -> their estimated IoU for every class

as .json (.pdmodel with Paddle 2.6) and .pdiparams for Paddle Inference, and as .onnx. Every model is run and compared
with the network itself on a picture, ONNX in every engine that is installed; if an output differs by more than 1e-4
(root mean square, as a share of that of the output) nothing is written. ONNX needs the packages of
requirements-fast.txt.
"""
from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence

if __package__ in (None, ""):  # run as a script: python tools/export.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.runtime import UserError, set_threads, set_up_messages  # noqa: E402

# isort: split
import paddle  # noqa: E402

from data.config import ConfigError, cfg  # noqa: E402
from data.images import DatasetError  # noqa: E402
from eval import configure  # noqa: E402
from utils.config_options import add_config_options  # noqa: E402
from utils.exporting import check_replaceable, export, is_deformable  # noqa: E402
from utils.in_out import check_writable  # noqa: E402
from utils.networks import load_network  # noqa: E402
from utils.onnx_files import check_packages, engines_for  # noqa: E402
from utils.verification import verification_picture  # noqa: E402

FORMATS = {"paddle": ("paddle",), "onnx": ("onnx",), "both": ("paddle", "onnx")}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--trained_model", required=True,
        help="weights of any format (.pdparams, .pth, .safetensors, .npz); a released network's name (yolact_base), "
             "which is downloaded into --save_folder; 'latest': the newest checkpoint of --config there")
    add_config_options(add, example="nms_thresh=0.4")
    add("--save_folder", default="weights/", help="of released networks and of 'latest' (default: %(default)s)")
    add("--detect", action="store_true", help="boxes only, without the mask branch")
    add("--out", help="folder to write (default: exported/ and the config's name); an earlier export is replaced")
    add("--format", choices=tuple(FORMATS), default="paddle", help="what to write (default: %(default)s)")
    add("--image", help="picture for the comparison (default: the first of the validation set, else a drawn one)")
    add("--no_bar", action="store_true", help="no progress bar of a download")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    formats = FORMATS[args.format]
    if "onnx" in formats:
        check_packages()
    weights = configure(args)
    folder = os.path.normpath(args.out or os.path.join("exported", cfg.name))
    check_writable(os.path.dirname(folder) or ".", "--out")
    check_replaceable(folder, "choose another --out")
    picture = verification_picture(args.image, cfg.dataset.valid_images)
    paddle.set_device("cpu")  # the models run everywhere
    set_threads()
    print(f"{cfg.name} from {weights}", flush=True)
    net = load_network(weights, cfg)
    backends = [*(["paddle"] if "paddle" in formats else []),
                *(engines_for(is_deformable(net)) if "onnx" in formats else [])]
    export(net, cfg, weights, folder, formats, [(backend, "fp32") for backend in backends], picture,
           tell=functools.partial(print, flush=True))
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        print(f"written: {path}, {os.path.getsize(path) / 2 ** 10:,.0f} KiB")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        run(args)
    except (UserError, ConfigError, DatasetError, OSError) as error:
        sys.exit(f"export.py: error: {error}")


if __name__ == "__main__":
    main()
