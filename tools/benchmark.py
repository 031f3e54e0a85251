"""The performance of this project in one table: what every engine makes of the network and of whole pictures.

    python tools/benchmark.py --trained_model=weights/yolact_base_54_800000.pdparams --pictures=DIR --plots=DIR
    python tools/benchmark.py --trained_model=... --versus="python their_eval.py --images={images}:{out}"
    python tools/benchmark.py --train --config=yolact_resnet50_config --batch_size=2 --iterations=5
    python tools/benchmark.py --data --config=yolact_base_config -o dataset.train_images=DIR dataset.train_info=FILE

--inference (without another mode, this one): for every backend and precision the network alone, beside the
    machine's fastest matrix product; pictures one at a time, from the file to masks, and stage by stage; many
    pictures overlapped, COCO run lengths included; how much of what eager Paddle finds is found as well; with
    --accuracy AP. All engines take turns on the same pictures, so that other programs slow them alike. Then how the
    stages around the network grow with the objects found and with the size of the picture. Without --trained_model
    the weights are random.
--versus: another implementation's command beside eval.py, in turn: time a picture without start-up.
--train: a whole iteration (waiting for data, forward, loss, backward, update) beside the bare network's forward and
    backward on such pictures, with the sum of its outputs as the loss. Both run in turn in one process, so that
    other programs slow them alike; their ratio is what the code around the network costs.
    The loss is then measured once more on its own, on the outputs of that iteration, function by function. The
    second ratio is 1 + (waiting for data + loss + its backward to the network's outputs + update) / bare.
    The network starts from random weights.
--data: training samples (with the config's augmentation) and evaluation samples per second of one core, and where
    their time goes, in a process such as the loader's workers.

Times are medians and 95th percentiles in milliseconds. Pictures are the config's (cfg.dataset); if it has none on disk,
or with --made_up, they are made up: of 640 x 480 for --inference; for the others with COCO's number of objects, and
COCO's size for an input of 550 pixels.
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

STARTED_WITH = dict(os.environ)  # before Paddle changes it at its import; for commands that are started
if __package__ in (None, ""):  # run as a script: python tools/benchmark.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from utils.runtime import (  # noqa: E402
    available_cpus,
    seed_everything,
    select_device,
    set_threads,
    set_up_messages,
    str2bool,
    whole_number,
)

# isort: split
# What follows imports paddle, for which utils.runtime has to have set the scene.
import cv2  # noqa: E402
import paddle  # noqa: E402

from data.coco import collate  # noqa: E402
from data.coco_checks import class_names_of  # noqa: E402
from data.config import apply_overrides, cfg, set_cfg, set_dataset  # noqa: E402
from data.images import DatasetError  # noqa: E402
from tools.benchmarks.data import (  # noqa: E402
    DATA_PASSES,
    USER_ERRORS,
    data_report,
    measure_data_in_worker,
    open_datasets,
)
from tools.benchmarks.engines import EAGER  # noqa: E402
from tools.benchmarks.inference import run_inference  # noqa: E402
from tools.benchmarks.training import WARM_UP, Iterations, measure_training, training_report  # noqa: E402
from utils.engines import BACKENDS, PRECISIONS  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.in_out import check_writable  # noqa: E402
from utils.loader import BatchLoader  # noqa: E402
from utils.networks import locate  # noqa: E402

DEFAULT_CONFIG = "yolact_base_config"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--inference", action="store_true", help="measure detection in pictures (default without another mode)")
    add("--train", action="store_true", help="measure training iterations")
    add("--data", action="store_true", help="measure the making of samples")
    add("--config", help="a config of data/config.py (default: that of --trained_model, else "
                         f"{DEFAULT_CONFIG})")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, as train.py takes them")
    add("--made_up", action="store_true", help="made-up pictures, even if the config's are there")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--json", metavar="FILE", help="write the figures to this file, too")
    _add_inference_options(parser.add_argument_group("inference").add_argument)
    add = parser.add_argument_group("training and data").add_argument
    add("--batch_size", type=int, default=8, help="images an iteration (default: %(default)s)")
    add("--iterations", type=int, default=10, help=f"counted, {WARM_UP} more go before (default: %(default)s)")
    add("--num_workers", type=int, default=1, help="processes that load data for --train (default: %(default)s)")
    add("--samples", type=int, default=100, help=f"of each of {DATA_PASSES} passes of --data (default: %(default)s)")
    args = parser.parse_args(argv)
    args.inference |= not (args.train or args.data)
    for option in ("batch_size", "iterations", "samples"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)} is too small; use 1 or more")
    for option in ("trained_model", "pictures", "backends", "plots", "versus", "accuracy"):
        if getattr(args, option) not in (None, False) and not args.inference:
            parser.error(f"--{option} is for --inference; give that, too")
    return args


def _add_inference_options(add: Callable[..., argparse.Action]) -> None:
    add("--trained_model", help="weights of any format, or a released network's name; its engines are kept beside it "
                                "(default: random weights that find as many objects as trained ones)")
    add("--pictures", metavar="DIR", help="folder of pictures (default: the config's for validation)")
    add("--count", type=whole_number, default=20, help="pictures (default: %(default)s)")
    add("--backends", nargs="+", choices=BACKENDS, metavar="NAME",
        help=f"of {', '.join(BACKENDS)} (default: those installed); {EAGER} is always measured, for comparison")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), metavar="NAME",
        help="of fp32 and bf16, which openvino has on processors with units for it (default: both)")
    add("--accuracy", action="store_true", help="COCO's AP of every engine on the config's validation set, too")
    add("--plots", metavar="DIR", help="draw the stages' growth with objects and pixels into this folder")
    add("--versus", metavar="CMD", help="another implementation's command, with {images} where it takes a folder of "
                                        "pictures and {out} where it takes an empty one for results")


def configure(args: argparse.Namespace) -> str | None:
    """Fill the global cfg: --config or that of --trained_model, then --dataset, then -o. Returns the weights' path.

    Class names that none of them gives are those of the network, or those of the JSON for random weights.
    """
    path, class_names = None, None
    if args.trained_model is None:
        set_cfg(args.config or DEFAULT_CONFIG)
    else:
        path, config, _ = locate(args.trained_model, args.config, "weights/")
        cfg.update_in_place(config)
        class_names = cfg.dataset.class_names
    if args.dataset is not None:
        set_dataset(args.dataset)
    apply_overrides(args.override)
    if cfg.dataset.class_names is None:
        cfg.dataset.class_names = class_names or class_names_of(cfg.dataset)
    return path


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, print it; returns the figures."""
    weights = configure(args)
    for option, folder in (("--plots", args.plots), ("--json", args.json and os.path.dirname(args.json))):
        if folder:
            check_writable(folder, option)
    device = select_device(args.cuda)
    threads = set_threads()
    seed_everything(0)
    figures = {"config": cfg.name, "max_size": cfg.max_size, "device": device, "cpus": available_cpus(),
               "threads": threads, "paddle": paddle.__version__, "opencv": cv2.__version__}
    print(f"{cfg.name}, {cfg.max_size} px, {device} with {threads} CPU threads, paddle {paddle.__version__}, "
          f"OpenCV {cv2.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if args.inference:
            figures["inference_figures"] = run_inference(args, weights, folder, device, threads, STARTED_WITH)
        if args.train or args.data:
            run_on_dataset(args, folder, figures)
    return figures


def run_on_dataset(args: argparse.Namespace, folder: str, figures: dict[str, Any]) -> None:
    """--data and --train: add their figures to those of the run. folder: takes what is made up."""
    datasets = open_datasets(args, folder)
    figures.update(batch_size=args.batch_size, data=datasets[0].name, pictures=len(datasets[0]))
    print(f"data: {datasets[0].name}", flush=True)
    if args.data:
        figures["data_figures"] = measure_data_in_worker(datasets, args.samples)
        print(data_report(figures["data_figures"]), flush=True)
    if args.train:
        print(f"training with batches of {args.batch_size}, {args.iterations} iterations")
        with BatchLoader(datasets[0], collate, args.batch_size, 0, args.num_workers,
                         expected=(DatasetError,)) as loader:
            stream = loader.stream()
            next(stream)  # the workers start before the network fills the memory
            figures["train_figures"] = measure_training(Iterations(args.batch_size), stream, args.iterations)
        print(training_report(figures["train_figures"]), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        figures = run(args)
        if args.json:
            write_json(args.json, figures, indent=2)
    except USER_ERRORS as error:
        sys.exit(f"benchmark.py: error: {error}")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
