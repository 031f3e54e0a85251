"""tools/benchmark.py --train: a whole training iteration beside the bare network's forward and backward."""
from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, peak_memory_gib

# isort: split
import numpy as np
import paddle

import layers.multibox_loss
from data.coco import Batch
from data.config import cfg
from tools.benchmarks.clock import PartTimer, summaries, synchronizer
from utils.update import SMALLEST_BN_BATCH
from yolact import Yolact

Outputs = dict[str, paddle.Tensor]
LOSS_BACKWARD = "backward to the network's outputs"
WARM_UP = 2  # iterations that are not counted
# Functions whose time is told apart, by the name they are called by in a module; one that is not there is left out.
LOSS_FUNCTIONS = (
    ("matching", "match"), ("class", "ohem_conf_loss"), ("boxes", "box_loss"), ("masks, assembled", "assemble_masks"),
    ("masks, loss", "mask_loss"), ("ground-truth masks, resized", "downsample_masks"), ("mask IoU", "mask_iou_loss"),
    ("semantic segmentation", "semantic_segmentation_loss"), ("coefficient diversity", "coeff_diversity_loss"),
    ("direct masks", "direct_mask_loss"), ("class existence", "class_existence_loss"))


class Iterations:
    """The network with its loss and the original's optimizer, and the two kinds of iteration.

    Args:
        batch_size: pictures an iteration; with few batch norm is frozen, as train.py does.
    """

    def __init__(self, batch_size: int):
        self.net = Yolact(cfg)
        if cfg.freeze_bn or batch_size < SMALLEST_BN_BATCH:
            self.net.freeze_bn()
        self.net.train()
        learnt = [parameter for parameter in self.net.parameters() if not parameter.stop_gradient]
        self.optimizer = paddle.optimizer.Momentum(cfg.lr, cfg.momentum, learnt, weight_decay=cfg.decay)
        self.criterion = layers.multibox_loss.criteria(cfg, self.net.maskiou_net)[0][1]
        self.timer = PartTimer(synchronizer())
        functions = [(name, layers.multibox_loss, function) for name, function in LOSS_FUNCTIONS]
        self.watching = lambda: self.timer.watching(functions)
        with self.watching():  # what a criterion binds when it is made is watched as well
            self.watched_criterion = layers.multibox_loss.criteria(cfg, self.net.maskiou_net)[0][1]

    def bare(self, batch: Batch) -> dict[str, float]:
        """Forward and backward of the network alone, from pictures on the device to gradients; seconds."""
        images = paddle.to_tensor(batch.images)
        with self.timer.part("forward"):
            out = self.net(images)
        with self.timer.part("backward"):
            sum(value.sum() for value in out.values() if not value.stop_gradient).backward()
        self.optimizer.clear_grad()
        seconds = self.timer.take()
        return {"bare network": sum(seconds.values()), **seconds}

    def whole(self, stream: Iterator) -> tuple[Batch, Outputs, dict[str, float]]:
        """One iteration as train.py makes it; returns the batch, the network's outputs and seconds."""
        part = self.timer.part
        start = time.perf_counter()
        with part("waiting for data"):
            batch = next(stream)[2]
        with part("forward"):
            out = self.net(paddle.to_tensor(batch.images))
        with part("loss"):
            losses = self.criterion(out, batch.samples)
            values = {name: loss.item() for name, loss in losses.items()}
            total = sum(losses.values())
        if not np.isfinite(list(values.values())).all():
            raise UserError(f"the loss is not finite: {values}; correct the config")
        with part("backward"):
            total.backward()
        with part("update"):
            self.optimizer.set_lr(cfg.lr_warmup_init)
            self.optimizer.step()
            self.optimizer.clear_grad()
        seconds = time.perf_counter() - start
        return batch, out, {"whole iteration": seconds, **self.timer.take()}

    def loss_alone(self, batch: Batch, out: Outputs) -> dict[str, float]:
        """The loss on outputs that are there already, and its way back to them; seconds by function."""
        copies = {name: value.detach() for name, value in out.items()}
        for name, value in out.items():
            copies[name].stop_gradient = value.stop_gradient
        with self.watching():
            with self.timer.part("the rest, forward"):
                losses = self.watched_criterion(copies, batch.samples)
                total = sum(losses.values())
            with self.timer.part(LOSS_BACKWARD):
                total.backward()
        self.optimizer.clear_grad()
        return self.timer.take()


def measure_training(iterations: Iterations, stream: Iterator, count: int) -> dict[str, Any]:
    """Bare and whole iterations in turn, each of them first every other time; the first few do not count."""
    bare: list[dict[str, float]] = []
    whole: list[dict[str, float]] = []
    alone: list[dict[str, float]] = []
    batch = next(stream)[2]
    for number in range(WARM_UP + count):
        if number % 2:
            bare.append(iterations.bare(batch))
        batch, out, seconds = iterations.whole(stream)
        whole.append(seconds)
        alone.append(iterations.loss_alone(batch, out))
        del out  # else two networks' activations would be held at once
        if not number % 2:
            bare.append(iterations.bare(batch))
    figures: dict[str, Any] = {
        "bare": summaries(bare[WARM_UP:]), "whole": summaries(whole[WARM_UP:]),
        "loss_alone": summaries(alone[WARM_UP:]), "peak_memory_gib": peak_memory_gib()}
    unit = figures["bare"]["bare network"]["median_ms"]
    around = [figures["whole"][name]["median_ms"] for name in ("waiting for data", "loss", "update")]
    around.append(figures["loss_alone"][LOSS_BACKWARD]["median_ms"])
    return {**figures, "whole_by_bare": figures["whole"]["whole iteration"]["median_ms"] / unit,
            "whole_by_bare_of_parts": 1 + sum(around) / unit}


def table(title: str, rows: dict[str, dict[str, float]], unit_ms: float) -> str:
    """Lines of name, median, 95th percentile and the median's share of `unit_ms`."""
    lines = [f"{title:42}{'median ms':>11}{'p95 ms':>11}{'of bare':>9}"]
    lines += [f"  {name:40}{row['median_ms']:11.1f}{row['p95_ms']:11.1f}{row['median_ms'] / unit_ms:9.1%}"
              for name, row in rows.items()]
    return "\n".join(lines)


def training_report(figures: dict[str, Any]) -> str:
    """The figures of `measure_training` as text."""
    unit = figures["bare"]["bare network"]["median_ms"]
    parts = [table("network alone", figures["bare"], unit), table("training", figures["whole"], unit),
             table("the loss alone", figures["loss_alone"], unit),
             f"whole / bare: {figures['whole_by_bare']:.3f}, and from what is around the "
             f"network, which varies less: {figures['whole_by_bare_of_parts']:.3f}",
             f"peak memory: {figures['peak_memory_gib']:.2f} GiB"]
    return "\n".join(parts)
