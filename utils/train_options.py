"""The options of train.py: those of the original, and those that came after it."""
from __future__ import annotations

import argparse
from typing import Any, Callable

from utils.config_options import add_config_options
from utils.runtime import seed_number, str2bool


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser all options."""
    add = parser.add_argument
    add_config_options(add, "yolact_base_config",
                       "max_size=400 dataset.train_info=train.json; max_iter alone moves lr_steps along")
    add("--batch_size", type=int, default=8, help="images an iteration, of all devices (default: %(default)s)")
    add("--num_workers", type=int, default=4,
        help="processes that load data; 0 loads between iterations (default: %(default)s)")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--seed", type=seed_number, default=0,
        help="of initial weights, data order and augmentation (default: %(default)s)")
    _add_start_options(parser.add_argument_group("where to start"))
    _add_schedule_options(parser.add_argument_group("schedule (default: the config's)").add_argument)
    _add_step_options(parser.add_argument_group("a step").add_argument)
    _add_output_options(parser.add_argument_group("output").add_argument)


def _add_start_options(group: Any) -> None:
    group.add_argument("--start_iter", type=int, default=-1,
                       help="first iteration of a resumed training; -1: the checkpoint's (default)")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume",
                        help="checkpoint to continue exactly; 'latest', 'interrupt': of --save_folder")
    either.add_argument("--trained_model",
                        help="weights to start from at iteration 0, of any format, or a released network's name "
                             "(yolact_base), which is downloaded; tensors that do not fit are listed")
    group.add_argument("--backbone_weights",
                       help="ImageNet weights of the backbone: a file, or original, torchvision, paddle to download "
                            "them from there (default: the config's backbone.path in --save_folder, if it is there)")


def _add_schedule_options(add: Callable[..., Any]) -> None:
    add("--lr", "--learning_rate", type=float, help="learning rate after the warm-up; is not autoscaled")
    add("--momentum", type=float, help="SGD momentum")
    add("--decay", "--weight_decay", type=float, help="weight decay")
    add("--gamma", type=float, help="factor of the learning rate at every step")
    add("--no_autoscale", dest="autoscale", action="store_false",
        help="keep learning rate and iterations as they are for a batch size other than the config's")


def _add_step_options(add: Callable[..., Any]) -> None:
    add("--accumulate", type=int, default=1, metavar="N",
        help="compute a batch in N parts, one after the other, to save memory; the step is the same (default: 1)")
    add("--amp", action="store_true", help="compute the network in half precision (GPU only)")
    add("--clip_norm", type=float, default=0.0, help="scale gradients down to this global norm; 0: not (default)")
    add("--ema", type=float, default=0.0, metavar="DECAY",
        help="keep a moving average of the weights, such as 0.9998, and validate with it; 0: not (default)")
    add("--sync_bn", action="store_true", help="batch norm over the batch of all devices (GPU only)")
    add("--max_bad_steps", type=int, default=10,
        help="end the training after so many steps in a row without a finite loss (default: %(default)s)")


def _add_output_options(add: Callable[..., Any]) -> None:
    add("--save_folder", default="weights/",
        help="checkpoints, and the backbone's weights (default: %(default)s)")
    add("--save_interval", type=int, default=10000,
        help="iterations from one checkpoint to the next (default: %(default)s)")
    add("--keep_latest", action="store_true", help="delete the previous checkpoint after saving one")
    add("--keep_latest_interval", type=int, default=100000,
        help="with --keep_latest, checkpoints at multiples of it stay (default: %(default)s)")
    add("--keep_best", action="store_true",
        help="keep the network with the highest mask AP in validation as <config>_best.safetensors")
    add("--no_interrupt", dest="interrupt", action="store_false", help="do not save a checkpoint on Ctrl-C or SIGTERM")
    add("--validation_epoch", type=int, default=2,
        help="validate every so many epochs; -1 never (default: %(default)s)")
    add("--validation_size", type=int, default=5000, help="images to validate on (default: %(default)s)")
    add("--log_folder", default="logs/", help="JSON-lines log of every iteration (default: %(default)s)")
    add("--no_log", dest="log", action="store_false", help="write no log")
    add("--use_vdl", action="store_true", help="write curves for VisualDL as well: visualdl --logdir logs")
    add("--log_gpu", action="store_true", help="add nvidia-smi's figures to the log")
    add("--batch_alloc", help="accepted for old scripts; has no effect")
