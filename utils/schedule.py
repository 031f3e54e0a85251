"""Learning rate as a pure function of the iteration, so that resuming needs no scheduler state.

Paper Sec. 6 ("Implementation Details"): SGD for 800k iterations at batch 8, learning rate 1e-3 divided by 10 at
280k, 600k, 700k and 750k. The warm-up is the original's.
"""
from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from utils.runtime import UserError

KINDS = ("step", "cosine")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule with every number final (autoscaling already applied).

    Attributes:
        lr: rate after the warm-up.
        max_iter: iterations of the whole training.
        lr_steps: iterations at which the rate is multiplied by gamma, ascending ('step' only).
        gamma: factor applied at each step.
        warmup_init: rate at iteration 0.
        warmup_until: iteration at which the warm-up reaches ``lr``; 0 switches it off.
        kind: 'step' or 'cosine'.
    """

    lr: float
    max_iter: int
    lr_steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_init: float = 1e-4
    warmup_until: int = 500
    kind: str = "step"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"lr_schedule {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"lr is {self.lr!r}; it must be a positive number (--lr or the config key lr)")


def build_schedule(cfg: Any, batch_size: int, autoscale: bool = True, lr: float | None = None,
                   gamma: float | None = None) -> Schedule:
    """Schedule of a config for a batch size.

    As the original: with autoscaling the rate grows, and max_iter and lr_steps shrink, by
    batch_size / batch_size_base (8), so that the number of images seen stays the same; the warm-up does not
    scale. A rate given on the command line is taken as it is.

    Args:
        cfg: config with lr, max_iter, lr_steps, gamma, lr_warmup_init, lr_warmup_until, lr_schedule and
            batch_size_base. It is not changed.
        batch_size: images per optimisation step, over all devices.
        autoscale: False keeps the config's numbers (``--no_autoscale``).
        lr, gamma: values that replace the config's; None keeps those.

    Raises:
        UserError: for a batch size below 1 or a setting that cannot work.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}; it must be at least 1")
    if cfg.max_iter < 1:
        raise UserError(f"max_iter is {cfg.max_iter}; it must be at least 1")
    base = cfg.batch_size_base if autoscale else batch_size

    def scaled(iterations):
        return int(iterations) * base // batch_size  # integers: 800000 // 0.1 would be 7999999.0

    return Schedule(
        lr=float(cfg.lr * (batch_size / base) if lr is None else lr),
        max_iter=max(1, scaled(cfg.max_iter)),
        lr_steps=tuple(sorted(scaled(step) for step in cfg.lr_steps)),
        gamma=float(cfg.gamma if gamma is None else gamma),
        warmup_init=float(cfg.lr_warmup_init),
        warmup_until=int(cfg.lr_warmup_until),
        kind=cfg.lr_schedule)


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """Learning rate of an iteration (from 0).

    Linear warm-up while iteration <= warmup_until, as the original; then lr * gamma ** (steps reached), or
    half a cosine that ends at 0 at max_iter.
    """
    until = schedule.warmup_until
    if until > 0 and iteration <= until:
        return (schedule.lr - schedule.warmup_init) * (iteration / until) + schedule.warmup_init
    if schedule.kind == "cosine":
        start = max(until, 0)
        progress = (iteration - start) / max(1, schedule.max_iter - start)
        return 0.5 * schedule.lr * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return schedule.lr * schedule.gamma ** bisect.bisect_right(schedule.lr_steps, iteration)


def rescale_steps(old_max_iter: int, new_max_iter: int, steps: Iterable[int]) -> list[int]:
    """lr_steps moved in proportion when only max_iter changes, as a list of integers.

    A user who shortens a training wants the whole schedule shorter, not its tail cut off.
    """
    return [int(step) * int(new_max_iter) // int(old_max_iter) for step in steps]
