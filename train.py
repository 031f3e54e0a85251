"""Train YOLACT.

    python train.py --config=yolact_base_config --batch_size=8
    python train.py --config=yolact_base_config --resume=latest
    python train.py --config=yolact_resnet50_config -o dataset.train_images=DIR dataset.train_info=FILE
"""
import argparse
import logging
import os
import sys
import time

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import (
    UserError,
    multiply_adds,
    peak_memory_gib,
    seed_everything,
    seed_number,
    select_device,
    set_threads,
    set_up_messages,
    str2bool,
)

# isort: split
import numpy as np
import paddle

from data.coco import COCODetection, collate, image_order
from data.config import MEANS, STD, ConfigError, apply_overrides, cfg, get_config, set_cfg, set_dataset
from data.images import DatasetError
from eval import evaluate, first_pictures, load_validation_set
from layers.multibox_loss import criteria
from utils import checkpoint, ranks
from utils.augmentations import build_augmentation
from utils.coco_results import CocoResults, evaluate_results
from utils.guards import BadSteps, StopRequest, TooManyBadSteps
from utils.loader import BatchLoader
from utils.predictor import SHOWN_TOP_K, Predictor
from utils.released import BACKBONES, imagenet_weights, weights_file
from utils.schedule import build_schedule, learning_rate, rescale_steps
from utils.trainer import Trainer
from utils.update import Average, Update, amp_type
from utils.weights import load_backbone, load_weights, read_weights
from yolact import Yolact

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
BACKBONE_SOURCES = ("original", "torchvision", "paddle")
SMALLEST_BN_BATCH = 6  # images a device; with fewer, batch statistics are too noisy and batch norm is frozen
FIRST_VALIDATION = 2  # images, before the first step
VDL_PICTURES = 4  # of the validation, with --use_vdl
MANY_EPOCHS = 300  # COCO's schedule has 55


def parse_args(argv=None):
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--config", default="yolact_base_config", help="a config of data/config.py (default: %(default)s)")
    add("--dataset", help="a data set of data/config.py that replaces the config's")
    add("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="change config keys, nested with dots: -o max_size=400 dataset.train_info=train.json; max_iter "
             "alone moves lr_steps along")
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
    return parser.parse_args(argv)


def _add_start_options(group):
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


def _add_schedule_options(add):
    add("--lr", "--learning_rate", type=float, help="learning rate after the warm-up; is not autoscaled")
    add("--momentum", type=float, help="SGD momentum")
    add("--decay", "--weight_decay", type=float, help="weight decay")
    add("--gamma", type=float, help="factor of the learning rate at every step")
    add("--no_autoscale", dest="autoscale", action="store_false",
        help="keep learning rate and iterations as they are for a batch size other than the config's")


def _add_step_options(add):
    add("--accumulate", type=int, default=1, metavar="N",
        help="compute a batch in N parts, one after the other, to save memory; the step is the same (default: 1)")
    add("--amp", action="store_true", help="compute the network in half precision (GPU only)")
    add("--clip_norm", type=float, default=0.0, help="scale gradients down to this global norm; 0: not (default)")
    add("--ema", type=float, default=0.0, metavar="DECAY",
        help="keep a moving average of the weights, such as 0.9998, and validate with it; 0: not (default)")
    add("--sync_bn", action="store_true", help="batch norm over the batch of all devices (GPU only)")
    add("--max_bad_steps", type=int, default=10,
        help="end the training after so many steps in a row without a finite loss (default: %(default)s)")


def _add_output_options(add):
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


def configure(args):
    """Fill the global cfg: --config, then --dataset, then -o."""
    set_cfg(args.config)
    if args.dataset is not None:
        set_dataset(args.dataset)
    max_iter, lr_steps = cfg.max_iter, cfg.lr_steps
    apply_overrides(args.override)
    if cfg.max_iter != max_iter and cfg.lr_steps == lr_steps:
        apply_overrides([f"lr_steps={rescale_steps(max_iter, cfg.max_iter, lr_steps)}"])


def build_datasets(args):
    """(training set, validation set or None)."""
    dataset = cfg.dataset
    transform = build_augmentation(cfg, MEANS, STD, training=True)
    training = COCODetection(dataset.train_images, dataset.train_info, transform, dataset.class_names,
                             dataset.label_map, name=dataset.name, training=True)
    if args.validation_epoch <= 0:
        return training, None
    validation = load_validation_set()
    if not validation.has_gt:
        raise UserError(f"{validation.info_file} has no annotations to validate on; correct "
                        "dataset.valid_info, or pass --validation_epoch=-1")
    return training, validation


def backbone_file(args):
    """The file of the backbone's ImageNet weights, downloaded if --backbone_weights asks for it; None without one."""
    wanted = args.backbone_weights
    if wanted in BACKBONE_SOURCES:
        return imagenet_weights(wanted, cfg.backbone, args.save_folder)
    if wanted is not None:
        if not os.path.isfile(wanted):
            raise UserError(f"there is no file {wanted}; correct --backbone_weights (a file, or one of "
                            f"{', '.join(BACKBONE_SOURCES)}, which downloads it)")
        return wanted
    path = cfg.backbone.path and os.path.join(args.save_folder, cfg.backbone.path)
    if path is None or os.path.exists(path):
        return path
    downloads = any(url.endswith(f"/{cfg.backbone.path}") for url in BACKBONES["original"].values())
    logging.warning("the backbone starts from random weights, because there is no %s; training needs far longer, and "
                    "batches of %d images or more for batch norm. %s", path, SMALLEST_BN_BATCH,
                    "--backbone_weights=original downloads it" if downloads else "Put the ImageNet weights there")
    return None


def build_network(args):
    """The network in training mode with the weights it starts from; batch norm frozen for small batches."""
    net = Yolact(cfg)
    # 1. --resume fills everything later. 2. --trained_model. 3. The backbone's file. 4. Random weights.
    is_new = args.resume is None or (
        args.resume == "latest" and not checkpoint.list_checkpoints(args.save_folder, cfg.name))
    if args.trained_model is not None:
        path = weights_file(args.trained_model, args.save_folder, get_config)
        print(f"{path}: {load_weights(net, read_weights(path), strict=False).table()}")
    elif is_new:
        path = backbone_file(args)
        if path is not None:
            print(f"backbone weights from {path}: {load_backbone(net.backbone, path).table()}")
    if cfg.freeze_bn or images_at_once(args) * (ranks.count() if args.sync_bn else 1) < SMALLEST_BN_BATCH:
        net.freeze_bn()
    elif args.sync_bn:
        net = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.train()
    return net


def images_at_once(args):
    """How many pictures a device computes at once; the last part of a batch may have fewer."""
    return -(-(args.batch_size // ranks.count()) // args.accumulate)


def build_optimizer(net, args):
    """SGD with momentum as the original, or AdamW if the config asks for it; the rate is set every step."""
    decay = cfg.decay if args.decay is None else args.decay
    parameters = [p for p in net.parameters() if not p.stop_gradient]
    clip = paddle.nn.ClipGradByGlobalNorm(args.clip_norm) if args.clip_norm else None
    if cfg.optimizer == "adamw":
        return paddle.optimizer.AdamW(cfg.lr, parameters=parameters, weight_decay=decay, grad_clip=clip)
    momentum = cfg.momentum if args.momentum is None else args.momentum
    return paddle.optimizer.Momentum(cfg.lr, momentum, parameters, weight_decay=decay, grad_clip=clip)


def build_update(net, args, device):
    """What makes a step of training from a batch."""
    average = Average(net, args.ema) if args.ema else None
    return Update(net, build_optimizer(net, args), args.accumulate, amp_type(args.amp, device), average)


def measure(net, dataset, size, keep=0):
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


def train(trainer, loader, iteration):
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
        if args.validation_epoch > 0:
            trainer.validate(iteration // loader.batches_per_epoch, iteration)
        print(f"finished; peak memory {peak_memory_gib():.2f} GiB. Weights: {path}, log: {args.log_folder}. "
              f"Next: python eval.py --trained_model={path}")
    return 0


def banner(args, schedule, device, net, training_set, validation_set):
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
    changed = [f"{key}={ours!r}" for key, _, ours in
               checkpoint.config_differences(get_config(args.config).to_dict(), cfg.to_dict()) if key != "name"]
    print(f"{cfg.name} on {ranks.count()} x {device} (paddle {paddle.__version__}, numpy {np.__version__}, Python "
          f"{sys.version.split()[0]}), {millions:.2f} M parameters, {giga:.1f} G multiply-adds a picture\n"
          f"changed from {args.config}: {', '.join(changed) or 'nothing'}\n"
          f"data: {cfg.dataset.name}, {len(training_set)} training images with objects, "
          f"{'no' if validation_set is None else len(validation_set)} validation images, "
          f"{cfg.num_classes - 1} classes\n"
          f"batch {args.batch_size} ({ranks.count()} x {args.accumulate} x {images_at_once(args)}), {cfg.optimizer}, "
          f"learning rate {schedule.lr:g} (warm-up "
          f"{schedule.warmup_until}, {steps}), {schedule.max_iter} iterations = "
          f"{epochs:.1f} epochs"
          f"{' (scaled to the batch size)' if scaled else ''}")
    if epochs > MANY_EPOCHS:
        logging.warning("max_iter is %d epochs of your %d pictures, where COCO's schedule has 55; 100 are often "
                        "enough: -o max_iter=%d moves the learning rate steps along", epochs, len(training_set),
                        100 * len(training_set) // cfg.batch_size_base)
    frozen = f"frozen (freeze_bn is set, or there are fewer than {SMALLEST_BN_BATCH} images at once on a device)"
    alone = " of each device" if ranks.count() > 1 and not args.sync_bn else ""
    print("batch norm: " + (frozen if net.bn_frozen else f"trained on the batch's statistics{alone}"), flush=True)


def resume(args, update):
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
    for key, theirs, ours in checkpoint.config_differences(state["config"], cfg.to_dict()):
        logging.warning("the checkpoint was trained with %s=%s, and now it is %s", key, theirs, ours)
    for name, value in state.get("options", {}).items():
        if value != getattr(args, name, value):
            logging.warning("the checkpoint was trained with --%s=%s, and now it is %s; the training goes on "
                            "differently", name, value, getattr(args, name))
    if args.start_iter >= 0:
        state["iteration"] = args.start_iter
    print(f"resumed {path} at iteration {state['iteration']}")
    return path, state


def check_options(args, device):
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


def run(args):
    """Everything but the handling of the user's mistakes; returns the exit code."""
    configure(args)
    device = select_device(args.cuda)
    check_options(args, device)
    ranks.join()
    if ranks.rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process; the first rank tells all)
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
        checkpoint.check_writable(args.save_folder, "--save_folder")
        banner(args, schedule, device, net, training_set, validation_set)
        if validation_set is not None:
            net.eval()
            measure(net, validation_set, FIRST_VALIDATION)  # what is wrong with it should show now, not hours from here
            net.train()
        trainer = Trainer(args, cfg, update, criteria(cfg, net.maskiou_net), schedule, loader.batches_per_epoch,
                          lambda: measure(net, validation_set, args.validation_size,
                                          VDL_PICTURES if args.use_vdl else 0), resumed)
        try:
            return train(trainer, loader, iteration)
        finally:
            trainer.close()


def main(argv=None):
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
