"""What a training loop needs beside the network and the data: losses, log, checkpoints, validation."""
from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from utils import checkpoint, checkpoint_files, ranks
from utils.coco_results import compact_table, validation_figures
from utils.logger import Log, Meter, console_line
from utils.runtime import gpu_stats
from utils.schedule import Schedule
from utils.update import Update
from utils.visualdl_log import VisualDLLog

CONSOLE_INTERVAL = 10  # iterations
# A training that goes on with other values of these is another training.
RESUMED_OPTIONS = ("batch_size", "seed", "lr", "momentum", "decay", "gamma", "autoscale", "clip_norm", "ema")


class Trainer:
    """Records, saves and validates; of several ranks only the first one writes.

    Args:
        args: options of train.py. config: the network's configuration.
        criteria: list of (first iteration, MultiBoxLoss), as of layers.multibox_loss.criteria.
        batches_per_epoch: of the loader.
        measure: function without arguments that gives (metrics of the validation set, predicted pictures: list of
            (name, uint8 [H, W, 3] BGR)); `validate` calls it.
        resumed: (path, state) of the checkpoint that this training continues, or None.
    """

    def __init__(self, args: Namespace, config: Any, update: Update, criteria: Sequence[tuple[int, Any]],
                 schedule: Schedule, batches_per_epoch: int,
                 measure: Callable[[], tuple[Any, list[tuple[str, np.ndarray]]]] | None,
                 resumed: tuple[str, dict[str, Any]] | None):
        self.args, self.config, self.update, self.schedule = args, config, update, schedule
        self.criteria, self.batches_per_epoch, self.measure = criteria, batches_per_epoch, measure
        path, state = resumed or (None, {})
        # Path of the last checkpoint of this training, if it is where the next one goes.
        folders = [os.path.abspath(folder) for folder in (os.path.dirname(path or ""), args.save_folder)]
        self.previous: str | None = path if folders[0] == folders[1] else None
        self.best = state.get("best")  # {"AP": highest mask AP, "iteration": its iteration}
        self.meter = Meter()
        self.log: Log | None = None
        self.curves: VisualDLLog | None = None
        if args.log and ranks.rank() == 0:
            log_path = os.path.join(args.log_folder, f"{config.name}.log")
            self.log = Log(log_path, vars(args), gpu_stats if args.log_gpu else None)
            if args.use_vdl:
                self.curves = VisualDLLog(os.path.join(args.log_folder, config.name), self.log.session)

    def criterion(self, iteration: int) -> Any:
        """The loss of an iteration, as the config's delayed_settings have it."""
        return [criterion for first, criterion in self.criteria if first <= iteration][-1]

    def record(self, epoch: int, iteration: int, losses: dict[str, float], lr: float, seconds: float,
               reader_seconds: float) -> None:
        """Log one iteration; print every tenth."""
        self.meter.update(losses, seconds, reader_seconds, self.args.batch_size)
        if self.log:
            self.log.train(losses, epoch, iteration, lr, seconds)
        if self.curves:
            self.curves.train(iteration, losses, lr, seconds, reader_seconds, self.args.batch_size)
        if iteration % CONSOLE_INTERVAL == 0:
            print(console_line(epoch, iteration, self.meter, self.schedule.max_iter - iteration), flush=True)

    def save(self, iteration: int, interrupt: bool = False) -> str:
        """Checkpoint after `iteration` finished iterations; --keep_latest removes the one before. Returns its path."""
        args, epoch = self.args, iteration // self.batches_per_epoch
        name = checkpoint_files.Name(self.config.name, epoch, iteration, interrupt)
        path = os.path.join(args.save_folder, f"{name}.pdparams")
        if ranks.rank() == 0:
            checkpoint_files.remove_leftovers(args.save_folder, self.config.name)
            state = {"config": self.config.to_dict(), "epoch": epoch, "iteration": iteration,
                     "position": iteration % self.batches_per_epoch, "best": self.best,
                     "options": {name: getattr(args, name) for name in RESUMED_OPTIONS}}
            checkpoint.save(args.save_folder, name, self.update, state)
            if interrupt:
                checkpoint_files.remove_interrupts(args.save_folder, self.config.name, keep=path)
            elif args.keep_latest:
                checkpoint_files.prune(self.previous, path, args.keep_latest_interval)
        self.previous = path
        print(f"saved {path}", flush=True)
        return path

    def validate(self, epoch: int, iteration: int) -> None:
        """Measure mask and box AP, if there is a validation set; print and log them, keep the best network."""
        if self.measure is None:
            return
        start = time.time()
        net, average = self.update.net, self.update.average
        if average is not None:
            average.swap(net)
        net.eval()
        metrics, pictures = self.measure()
        net.train()
        if average is not None:
            average.swap(net)
        if ranks.rank() > 0:
            return
        print(compact_table(metrics), flush=True)
        figures = validation_figures(metrics)
        if self.log:
            self.log.log("val", {"elapsed": time.time() - start, "epoch": epoch, "iter": iteration, **figures})
        if self.curves:
            self.curves.val(iteration, metrics)
            for name, picture in pictures:
                self.curves.image(iteration, name, picture)
        self._keep_best(metrics, iteration)

    def _keep_best(self, metrics, iteration):
        average_precision = metrics.get("segm", metrics["bbox"])["AP"]
        if self.best is not None and average_precision <= self.best["AP"]:
            return
        self.best = {"AP": average_precision, "iteration": iteration}
        if self.args.keep_best:
            path = os.path.join(self.args.save_folder, f"{self.config.name}_best.safetensors")
            checkpoint.save_network(path, self.update, self.config.to_dict())
            print(f"saved {path}: AP {100 * average_precision:.2f}, the highest so far", flush=True)

    def finish(self, iteration: int) -> str:
        """The last checkpoint, and beside it the averaged network if there is one. Returns the path to evaluate."""
        return checkpoint.save_averaged(self.save(iteration), self.update, self.config.to_dict())

    def close(self) -> None:
        """Close the logs."""
        for log in (self.log, self.curves):
            if log:
                log.close()
