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
    gpu_stats,
    peak_memory_gib,
    seed_everything,
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
from eval import Predictor, evaluate, load_validation_set, seed_number
from layers.multibox_loss import criteria
from utils import checkpoint
from utils.augmentations import build_augmentation
from utils.coco_results import compact_table, evaluate_results, validation_figures
from utils.guards import BadSteps, hold_interrupts
from utils.loader import BatchLoader
from utils.logger import Log, Meter, meter_line
from utils.released import imagenet_weights, weights_file
from utils.schedule import build_schedule, learning_rate, rescale_steps
from utils.weights import load_backbone, load_weights, read_weights
from yolact import Yolact

USER_ERRORS = (UserError, ConfigError, DatasetError, OSError)
BACKBONE_SOURCES = ("original", "torchvision", "paddle")
CONSOLE_INTERVAL = 10  # iterations
SMALLEST_BN_BATCH = 6  # images a device; with fewer, batch statistics are too noisy and batch norm is frozen
# A training that goes on with other values of these is another training.
RESUMED_OPTIONS = ("batch_size", "seed", "lr", "momentum", "decay", "gamma", "autoscale")


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
    add("--batch_size", type=int, default=8, help="images an iteration (default: %(default)s)")
    add("--num_workers", type=int, default=4,
        help="processes that load data; 0 loads between iterations (default: %(default)s)")
    add("--cuda", type=str2bool, default=True, help="use a GPU if there is one (default: %(default)s)")
    add("--seed", type=seed_number, default=0,
        help="of initial weights, data order and augmentation (default: %(default)s)")
    _add_start_options(parser.add_argument_group("where to start"))
    _add_schedule_options(parser.add_argument_group("schedule (default: the config's)").add_argument)
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


def _add_output_options(add):
    add("--save_folder", default="weights/",
        help="checkpoints, and the backbone's weights (default: %(default)s)")
    add("--save_interval", type=int, default=10000,
        help="iterations from one checkpoint to the next (default: %(default)s)")
    add("--keep_latest", action="store_true", help="delete the previous checkpoint after saving one")
    add("--keep_latest_interval", type=int, default=100000,
        help="with --keep_latest, checkpoints at multiples of it stay (default: %(default)s)")
    add("--no_interrupt", dest="interrupt", action="store_false", help="do not save a checkpoint on Ctrl-C")
    add("--validation_epoch", type=int, default=2,
        help="validate every so many epochs; -1 never (default: %(default)s)")
    add("--validation_size", type=int, default=5000, help="images to validate on (default: %(default)s)")
    add("--log_folder", default="logs/", help="JSON-lines log of every iteration (default: %(default)s)")
    add("--no_log", dest="log", action="store_false", help="write no log")
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
    logging.warning("the backbone starts from random weights, because there is no %s; training needs far longer, and "
                    "batches of %d images or more for batch norm. --backbone_weights=original downloads it", path,
                    SMALLEST_BN_BATCH)
    return None


def build_network(args):
    """The network in training mode with the weights it starts from; batch norm frozen for small batches."""
    net = Yolact(cfg)
    # 1. --resume fills everything later. 2. --trained_model. 3. The backbone's file. 4. Random weights.
    if args.trained_model is not None:
        path = weights_file(args.trained_model, args.save_folder, get_config)
        print(f"{path}: {load_weights(net, read_weights(path), strict=False).table()}")
    elif args.resume is None:
        path = backbone_file(args)
        if path is not None:
            print(f"backbone weights from {path}: {load_backbone(net.backbone, path).table()}")
    if cfg.freeze_bn or args.batch_size < SMALLEST_BN_BATCH:
        net.freeze_bn()
    net.train()
    return net


def build_optimizer(net, args):
    """SGD with momentum as the original, or AdamW if the config asks for it; the rate is set every step."""
    decay = cfg.decay if args.decay is None else args.decay
    parameters = [p for p in net.parameters() if not p.stop_gradient]
    if cfg.optimizer == "adamw":
        return paddle.optimizer.AdamW(cfg.lr, parameters=parameters, weight_decay=decay)
    momentum = cfg.momentum if args.momentum is None else args.momentum
    return paddle.optimizer.Momentum(cfg.lr, momentum, parameters, weight_decay=decay)


def train_step(net, criterion, optimizer, batch, lr):
    """One update. Returns the loss terms before it as floats; one that is not finite updates nothing."""
    losses = criterion(net(paddle.to_tensor(batch.images)), batch.samples)
    values = {name: loss.item() for name, loss in losses.items()}
    if np.isfinite(list(values.values())).all():
        sum(losses.values()).backward()
        optimizer.set_lr(lr)
        optimizer.step()
        optimizer.clear_grad()
    return values


def validate(net, dataset, size):
    """COCO metrics on the first `size` images, in eval.py's order, with eval.py's code."""
    net.eval()
    order = image_order(dataset.ids)[:size]
    results, image_ids, _ = evaluate(Predictor(net, cfg), dataset, order, bar=sys.stderr.isatty())
    net.train()
    return evaluate_results(dataset.coco, results, image_ids)[0]


class Trainer:
    """What the loop needs beside the network: schedule, log, checkpoints, validation."""

    def __init__(self, args, net, optimizer, schedule, batches_per_epoch, validation_set, resumed=None):
        self.args, self.net, self.optimizer, self.schedule = args, net, optimizer, schedule
        self.batches_per_epoch = batches_per_epoch
        self.validation_set = validation_set
        self.previous = resumed  # path of the last checkpoint of this training
        self.criteria = criteria(cfg, net.maskiou_net)
        self.meter = Meter()
        self.log = None
        if args.log:
            self.log = Log(os.path.join(args.log_folder, f"{cfg.name}.log"), vars(args),
                           gpu_stats if args.log_gpu else None)

    def criterion(self, iteration):
        """The loss of an iteration, as the config's delayed_settings have it."""
        return [criterion for first, criterion in self.criteria if first <= iteration][-1]

    def record(self, epoch, iteration, losses, lr, seconds, reader_seconds):
        """Log one iteration; print every tenth."""
        self.meter.update(losses, seconds, reader_seconds, self.args.batch_size)
        if self.log:
            self.log.train(losses, epoch, iteration, lr, seconds)
        if iteration % CONSOLE_INTERVAL == 0:
            print(meter_line(epoch, iteration, self.meter, self.schedule.max_iter - iteration), flush=True)

    def save(self, iteration, interrupt=False):
        """Checkpoint after `iteration` finished iterations; --keep_latest removes the one before."""
        args, epoch = self.args, iteration // self.batches_per_epoch
        checkpoint.remove_leftovers(args.save_folder, cfg.name)
        state = {"config": cfg.to_dict(), "epoch": epoch, "iteration": iteration,
                 "options": {name: getattr(args, name) for name in RESUMED_OPTIONS}}
        name = checkpoint.Name(cfg.name, epoch, iteration, interrupt)
        path = checkpoint.save(args.save_folder, name, self.net, self.optimizer, state)
        if interrupt:
            checkpoint.remove_interrupts(args.save_folder, cfg.name, keep=path)
        elif args.keep_latest:
            checkpoint.prune(self.previous, path, args.keep_latest_interval)
        self.previous = path
        print(f"saved {path}", flush=True)
        return path

    def validate(self, epoch, iteration):
        """Measure mask and box AP, print the compact table, log it."""
        start = time.time()
        metrics = validate(self.net, self.validation_set, self.args.validation_size)
        print(compact_table(metrics), flush=True)
        if self.log:
            self.log.log("val", {"elapsed": time.time() - start, "epoch": epoch, "iter": iteration,
                                 **validation_figures(metrics)})


def train(trainer, loader, iteration):
    """The training loop, from `iteration` to the schedule's end."""
    args, schedule = trainer.args, trainer.schedule
    bad_steps = BadSteps()
    stream = loader.stream(*divmod(iteration, loader.batches_per_epoch))
    try:
        while iteration < schedule.max_iter:
            start = time.perf_counter()
            epoch, position, batch = next(stream)
            reader_seconds = time.perf_counter() - start
            seed_everything(args.seed, iteration)
            lr = learning_rate(schedule, iteration)
            with hold_interrupts():
                losses = train_step(trainer.net, trainer.criterion(iteration), trainer.optimizer, batch, lr)
                trainer.record(epoch, iteration, losses, lr, time.perf_counter() - start, reader_seconds)
                iteration += 1
            bad_steps.check(losses, iteration - 1, batch)
            if iteration == schedule.max_iter:
                break
            if iteration % args.save_interval == 0:
                trainer.save(iteration)
            epoch_ends = position == loader.batches_per_epoch - 1
            if args.validation_epoch > 0 and epoch_ends and (epoch + 1) % args.validation_epoch == 0:
                trainer.validate(epoch, iteration)
    except KeyboardInterrupt:
        if args.interrupt:
            print(f"interrupted; continue with --resume={trainer.save(iteration, interrupt=True)}")
        sys.exit(130)
    path = trainer.save(iteration)
    if args.validation_epoch > 0:
        trainer.validate(iteration // loader.batches_per_epoch, iteration)
    print(f"finished; peak memory {peak_memory_gib():.2f} GiB. Next: python eval.py --trained_model={path}")


def banner(args, schedule, device, net, training_set, validation_set):
    """What is about to be trained, so that no scaling is silent."""
    # Paddle lists the statistics of a batch norm among its parameters.
    learnt = [p for name, p in net.named_parameters() if not name.endswith(("._mean", "._variance"))]
    millions = sum(np.prod(p.shape) for p in learnt) / 1e6
    steps = f"steps {list(schedule.lr_steps)}" if schedule.kind == "step" else schedule.kind
    scaled = args.autoscale and args.batch_size != cfg.batch_size_base
    print(f"{cfg.name} on {device} (paddle {paddle.__version__}), {millions:.2f} M parameters\n"
          f"data: {cfg.dataset.name}, {len(training_set)} training images with objects, "
          f"{'no' if validation_set is None else len(validation_set)} validation images, "
          f"{cfg.num_classes - 1} classes\n"
          f"batch {args.batch_size}, {cfg.optimizer}, learning rate {schedule.lr:g} (warm-up "
          f"{schedule.warmup_until}, {steps}), {schedule.max_iter} iterations = "
          f"{schedule.max_iter * args.batch_size / len(training_set):.1f} epochs"
          f"{' (scaled to the batch size)' if scaled else ''}")
    frozen = f"frozen (freeze_bn is set, or there are fewer than {SMALLEST_BN_BATCH} images a device)"
    print("batch norm: " + (frozen if net.bn_frozen else "trained on the batch's statistics"), flush=True)


def resume(args, net, optimizer):
    """Load the checkpoint of --resume; returns its path and the iteration to continue with."""
    path = args.resume
    if path in ("latest", "interrupt"):
        path = checkpoint.find(args.save_folder, path, cfg.name)
    elif not os.path.isfile(path):
        raise UserError(f"there is no file {path}; correct --resume")
    state = checkpoint.load_training_state(path, net, optimizer)
    for key, theirs, ours in checkpoint.config_differences(state["config"], cfg.to_dict()):
        logging.warning("the checkpoint was trained with %s=%s, and now it is %s", key, theirs, ours)
    for name, value in state.get("options", {}).items():
        if value != getattr(args, name, value):
            logging.warning("the checkpoint was trained with --%s=%s, and now it is %s; the training goes on "
                            "differently", name, value, getattr(args, name))
    iteration = state["iteration"] if args.start_iter < 0 else args.start_iter
    print(f"resumed {path} at iteration {iteration}")
    return path, iteration


def run(args):
    """Everything but the handling of the user's mistakes."""
    configure(args)
    if args.save_interval < 1:
        raise UserError(f"--save_interval is {args.save_interval}; it must be at least 1")
    device = select_device(args.cuda)
    set_threads()
    seed_everything(args.seed)
    if args.batch_alloc:
        logging.warning("--batch_alloc has no effect: the batch is not divided among devices")
    training_set, validation_set = build_datasets(args)
    schedule = build_schedule(cfg, args.batch_size, args.autoscale, args.lr, args.gamma)
    with BatchLoader(training_set, collate, args.batch_size, args.seed, args.num_workers,
                     expected=(DatasetError,)) as loader:
        net = build_network(args)
        optimizer = build_optimizer(net, args)
        path, iteration = (None, 0) if args.resume is None else resume(args, net, optimizer)
        checkpoint.check_writable(args.save_folder, "--save_folder")
        banner(args, schedule, device, net, training_set, validation_set)
        trainer = Trainer(args, net, optimizer, schedule, loader.batches_per_epoch, validation_set, path)
        if validation_set is not None:
            validate(net, validation_set, 1)  # what is wrong with it should show now, not hours from here
        train(trainer, loader, iteration)


def main(argv=None):
    """Entry point; a user's mistake ends in one line and exit code 1."""
    set_up_messages()
    args = parse_args(argv)
    try:
        run(args)
    except USER_ERRORS as error:
        sys.exit(f"train.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
