"""Train YOLACT.

    python train.py --config=yolact_base_config --batch_size=8
    python train.py --config=yolact_base_config --resume=latest
    python train.py --config=yolact_resnet50_config -o dataset.train_images=DIR dataset.train_info=FILE
"""
from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import (
    UserError,
    multiply_adds,
    peak_memory_gib,
    seed_everything,
    select_device,
    set_threads,
    set_up_messages,
)

# isort: split
import numpy as np
import paddle

from data.coco import COCODetection, collate, image_order, load_dataset
from data.config import MEANS, STD, ConfigError, apply_overrides, cfg, configure, get_config
from data.images import DatasetError
from data.inspection import inspect_training_data
from eval import evaluate, first_pictures, load_validation_set
from layers.multibox_loss import criteria
from utils import checkpoint, ranks
from utils.augmentations import build_augmentation
from utils.checkpoint_files import list_checkpoints
from utils.coco_results import CocoResults, evaluate_results
from utils.config_differences import config_differences
from utils.guards import BadSteps, StopRequest, TooManyBadSteps
from utils.in_out import check_writable
from utils.loader import BatchLoader
from utils.predictor import SHOWN_TOP_K, Predictor
from utils.released import backbone_file, weights_file
from utils.schedule import Schedule, build_schedule, learning_rate, rescale_steps
from utils.train_options import add_options
from utils.trainer import Trainer
from utils.update import SMALLEST_BN_BATCH, Average, Update, amp_type
from utils.weights import load_backbone, load_weights, read_weights
from yolact import Yolact

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
FIRST_VALIDATION = 2  # images, before the first step
VDL_PICTURES = 4  # of the validation, with --use_vdl
MANY_EPOCHS = 300  # COCO's schedule has 55


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    return parser.parse_args(argv)


def fill_cfg(args: argparse.Namespace) -> None:
    """Fill the global cfg: --config, then --dataset, then -o, by which max_iter alone moves lr_steps along."""
    configure(args.config, args.dataset)
    max_iter, lr_steps = cfg.max_iter, cfg.lr_steps
    apply_overrides(args.override)
    if cfg.max_iter != max_iter and cfg.lr_steps == lr_steps:
        apply_overrides([f"lr_steps={rescale_steps(max_iter, cfg.max_iter, lr_steps)}"])


def build_datasets(args: argparse.Namespace) -> tuple[COCODetection, COCODetection | None]:
    """(training set, validation set or None), after telling what is wrong or odd with them; fills in class names."""
    dataset, validates = cfg.dataset, args.validation_epoch > 0
    transform: Any = build_augmentation(cfg, MEANS, STD, training=True)
    inspections = inspect_training_data(dataset, cfg.max_size, validates, smallest_box=transform.smallest_box,
                                        preserve_aspect_ratio=cfg.preserve_aspect_ratio)
    for inspection in inspections:
        print(inspection.headline())
        for finding in inspection.of_level("warning"):
            logging.warning("%s: %s", inspection.info_file, finding.line())
    if dataset.class_names is None:
        dataset.class_names = inspections[0].class_names
    training = load_dataset(dataset, transform, training=True, content=inspections[0].content)
    if not validates:
        return training, None
    validation = load_validation_set(inspections[1].content)
    if not validation.has_gt:
        raise UserError(f"{validation.info_file} has no annotations to validate on; correct "
                        "dataset.valid_info, or pass --validation_epoch=-1")
    return training, validation


def build_network(args: argparse.Namespace) -> Yolact:
    """The network in training mode with the weights it starts from; batch norm frozen for small batches."""
    net = Yolact(cfg)
    # 1. --resume fills everything later. 2. --trained_model. 3. The backbone's file. 4. Random weights.
    is_new = args.resume is None or args.resume == "latest" and not list_checkpoints(args.save_folder, cfg.name)
    if args.trained_model is not None:
        weights = weights_file(args.trained_model, args.save_folder, get_config)
        print(f"{weights}: {load_weights(net, read_weights(weights), strict=False).table()}")
    elif is_new:
        path = backbone_file(args.backbone_weights, cfg.backbone, args.save_folder)
        if path is not None:
            print(f"backbone weights from {path}: {load_backbone(net.backbone, path).table()}")
    if cfg.freeze_bn or images_at_once(args) * (ranks.count() if args.sync_bn else 1) < SMALLEST_BN_BATCH:
        net.freeze_bn()
    elif args.sync_bn:
        net = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.train()
    return net


def images_at_once(args: argparse.Namespace) -> int:
    """How many pictures a device computes at once; the last part of a batch may have fewer."""
    return -(-(args.batch_size // ranks.count()) // args.accumulate)


def build_optimizer(net: Yolact, args: argparse.Namespace) -> paddle.optimizer.Optimizer:
    """SGD with momentum as the original, or AdamW if the config asks for it; the rate is set every step."""
    decay = cfg.decay if args.decay is None else args.decay
    parameters = [p for p in net.parameters() if not p.stop_gradient]
    clip = paddle.nn.ClipGradByGlobalNorm(args.clip_norm) if args.clip_norm else None
    if cfg.optimizer == "adamw":
        return paddle.optimizer.AdamW(cfg.lr, parameters=parameters, weight_decay=decay, grad_clip=clip)
    momentum = cfg.momentum if args.momentum is None else args.momentum
    return paddle.optimizer.Momentum(cfg.lr, momentum, parameters, weight_decay=decay, grad_clip=clip)


def build_update(net: Yolact, args: argparse.Namespace, device: str) -> Update:
    """What makes a step of training from a batch."""
    average = Average(net, args.ema) if args.ema else None
    return Update(net, build_optimizer(net, args), args.accumulate, amp_type(args.amp, device), average)


def measure(net: Yolact, dataset: COCODetection, size: int, keep: int = 0
            ) -> tuple[dict[str, Any] | None, list[tuple[str, np.ndarray]]]:
    """Validate on the first `size` images, in eval.py's order, with eval.py's code.

    Returns: (COCO metrics, `keep` of the pictures with their detections drawn as (name, uint8 BGR)); (None, []) but on
        the first rank.
    """
    order = image_order(dataset.ids)[:size]
    predictor = Predictor(net, cfg)
    results = CocoResults(dataset.label_map, predictor.has_masks)
    order = evaluate(predictor, dataset, order, results, sys.stderr.isatty())
    if ranks.rank() > 0:
        return None, []
    pictures = [(f"image_{dataset.ids[position]}", predictor.draw(image, found[:SHOWN_TOP_K]))
                for position, image, found in first_pictures(dataset, order, results, keep)]
    image_ids = [dataset.ids[position] for position in order]
    return evaluate_results(dataset.coco, results.lists(), image_ids)[0], pictures


def train(trainer: Trainer, loader: BatchLoader, iteration: int) -> int:
    """The training loop, from `iteration` to the schedule's end; returns the exit code."""
    args, schedule = trainer.args, trainer.schedule
    bad_steps = BadSteps(args.max_bad_steps)
    stream = loader.stream(*divmod(iteration, loader.batches_per_epoch))
    with StopRequest() as stop:
        while iteration < schedule.max_iter:
            start = time.perf_counter()
            epoch, position, batch = next(stream)
            reader_seconds = time.perf_counter() - start
            seed_everything(args.seed, iteration)
            lr = learning_rate(schedule, iteration)
            losses = trainer.update(trainer.criterion(iteration), batch, lr, (args.seed, iteration))
            trainer.record(epoch, iteration, losses, lr, time.perf_counter() - start, reader_seconds)
            try:
                bad_steps.check(losses, iteration, batch)
            except TooManyBadSteps as problem:
                print(f"the weights from before them: {trainer.save(problem.first, interrupt=True)}")
                raise
            iteration += 1
            stopped = ranks.highest(stop.signal)  # all ranks stop at the same iteration
            if stopped:
                if args.interrupt:
                    print(f"interrupted; continue with --resume={trainer.save(iteration, interrupt=True)}")
                return 128 + stopped
            if iteration == schedule.max_iter:
                break
            if iteration % args.save_interval == 0:
                trainer.save(iteration)
            epoch_ends = position == loader.batches_per_epoch - 1
            if args.validation_epoch > 0 and epoch_ends and (epoch + 1) % args.validation_epoch == 0:
                trainer.validate(epoch, iteration)
        path = trainer.finish(iteration)
        trainer.validate(iteration // loader.batches_per_epoch, iteration)
        print(f"finished; peak memory {peak_memory_gib():.2f} GiB. Weights: {path}, log: {args.log_folder}. "
              f"Next: python eval.py --trained_model={path}")
    return 0


def banner(args: argparse.Namespace, schedule: Schedule, device: str, net: Yolact, training_set: COCODetection,
           validation_set: COCODetection | None) -> None:
    """What is about to be trained, so that no scaling is silent."""
    # Paddle lists the statistics of a batch norm among its parameters.
    learnt = [p for name, p in net.named_parameters() if not name.endswith(("._mean", "._variance"))]
    millions = sum(np.prod(p.shape) for p in learnt) / 1e6
    net.eval()
    giga = multiply_adds(net, paddle.zeros([1, 3, cfg.max_size, cfg.max_size])) / 1e9
    net.train()
    steps = f"steps {list(schedule.lr_steps)}" if schedule.kind == "step" else schedule.kind
    scaled = args.autoscale and args.batch_size != cfg.batch_size_base
    epochs = schedule.max_iter * args.batch_size / len(training_set)
    changed = [f"{key}={ours!r}" for key, theirs, ours in
               config_differences(get_config(args.config).to_dict(), cfg.to_dict())
               if key != "name" and (key, theirs) != ("dataset.class_names", None)]
    print(f"{cfg.name} on {ranks.count()} x {device} (paddle {paddle.__version__}, numpy {np.__version__}, Python "
          f"{sys.version.split()[0]}), {millions:.2f} M parameters, {giga:.1f} G multiply-adds a picture\n"
          f"changed from {args.config}: {', '.join(changed) or 'nothing'}\n"
          f"data: {cfg.dataset.name}, {len(training_set)} training images with objects, "
          f"{'no' if validation_set is None else len(validation_set)} validation images, "
          f"{cfg.num_classes - 1} classes\n"
          f"batch {args.batch_size} ({ranks.count()} x {args.accumulate} x {images_at_once(args)}), {cfg.optimizer}, "
          f"learning rate {schedule.lr:g} (warm-up {schedule.warmup_until}, {steps}), "
          f"{schedule.max_iter} iterations = {epochs:.1f} epochs"
          f"{' (scaled to the batch size)' if scaled else ''}")
    if epochs > MANY_EPOCHS:
        logging.warning("max_iter is %d epochs of your %d pictures, where COCO's schedule has 55; 100 are often "
                        "enough: -o max_iter=%d moves the learning rate steps along", epochs, len(training_set),
                        100 * len(training_set) // cfg.batch_size_base)
    frozen = f"frozen (freeze_bn is set, or there are fewer than {SMALLEST_BN_BATCH} images at once on a device)"
    alone = " of each device" if ranks.count() > 1 and not args.sync_bn else ""
    print("batch norm: " + (frozen if net.bn_frozen else f"trained on the batch's statistics{alone}"), flush=True)


def resume(args: argparse.Namespace, update: Update) -> tuple[str, dict[str, Any]] | None:
    """Load the checkpoint of --resume; returns (its path, its state), or None where there is nothing to continue."""
    path = args.resume
    if path in ("latest", "interrupt"):
        found = checkpoint.resume(args.save_folder, path, cfg.name, update)
        if found is None:
            print(f"--resume=latest: there is no checkpoint of {cfg.name} in {args.save_folder} yet; starting at 0")
            return None
        path, state = found
    elif not os.path.isfile(path):
        raise UserError(f"there is no file {path}; correct --resume")
    else:
        state = checkpoint.load_training_state(path, update)
    for key, theirs, ours in config_differences(state["config"], cfg.to_dict()):
        logging.warning("the checkpoint was trained with %s=%s, and now it is %s", key, theirs, ours)
    for name, value in state.get("options", {}).items():
        if value != getattr(args, name, value):
            logging.warning("the checkpoint was trained with --%s=%s, and now it is %s", name, value,
                            getattr(args, name))
    if args.start_iter >= 0:
        state["iteration"] = args.start_iter
    print(f"resumed {path} at iteration {state['iteration']}")
    return path, state


def check_options(args: argparse.Namespace, device: str) -> None:
    """Raise a UserError for options that cannot work, before anything is read."""
    for name in ("save_interval", "accumulate", "max_bad_steps", "validation_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    if not 0 <= args.ema < 1:
        raise UserError(f"--ema is {args.ema}; it is the share of the old average, from 0 (off) to below 1")
    if args.clip_norm < 0:
        raise UserError(f"--clip_norm is {args.clip_norm}; it must be positive, or 0 for no clipping")
    if args.start_iter >= 0 and args.resume is None:
        raise UserError("--start_iter is for --resume; without it a training begins at 0")
    if args.sync_bn and device == "cpu":
        raise UserError("--sync_bn: Paddle has no synchronised batch norm on a CPU; leave it out")
    if args.batch_alloc:
        logging.warning("--batch_alloc has no effect: every process of paddle.distributed.launch gets the same share")


def run(args: argparse.Namespace) -> int:
    """Everything but the handling of the user's mistakes; returns the exit code."""
    fill_cfg(args)
    device = select_device(args.cuda)
    check_options(args, device)
    ranks.join()
    ranks.silence_others()
    set_threads()
    seed_everything(args.seed)
    training_set, validation_set = build_datasets(args)
    schedule = build_schedule(cfg, args.batch_size, args.autoscale, args.lr, args.gamma)
    with BatchLoader(training_set, collate, args.batch_size, args.seed, args.num_workers, (DatasetError,),
                     ranks.rank(), ranks.count()) as loader:
        net = build_network(args)
        ranks.share_weights(net)
        update = build_update(net, args, device)
        resumed = None if args.resume is None else resume(args, update)
        iteration = 0 if resumed is None else resumed[1]["iteration"]
        if resumed is not None and iteration >= schedule.max_iter:
            checkpoint.save_averaged(resumed[0], update, cfg.to_dict())
            print(f"{resumed[0]} is the end of this training ({schedule.max_iter} iterations); nothing is left to do")
            return 0
        check_writable(args.save_folder, "--save_folder")
        banner(args, schedule, device, net, training_set, validation_set)
        if validation_set is not None:
            net.eval()
            measure(net, validation_set, FIRST_VALIDATION)  # what is wrong with it should show now, not hours from here
            net.train()
        validate = None if validation_set is None else functools.partial(
            measure, net, validation_set, args.validation_size, VDL_PICTURES if args.use_vdl else 0)
        trainer = Trainer(args, cfg, update, criteria(cfg, net.maskiou_net), schedule, loader.batches_per_epoch,
                          validate, resumed)
        try:
            return train(trainer, loader, iteration)
        finally:
            trainer.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        code = run(args)
    except USER_ERRORS as error:
        sys.exit(f"train.py: error: {error}")
    except KeyboardInterrupt:  # outside the training loop
        sys.exit(130)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
