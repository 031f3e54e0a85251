"""Guards of a training loop: against losses that are not finite, and against being told to stop within a step."""
from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

from utils.runtime import UserError


class TooManyBadSteps(UserError):
    """So many steps in a row had a loss that is not finite; ``first`` is the iteration of the first of them."""

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


class BadSteps:
    """Counts steps in a row whose loss is not finite, tells of each, and ends the run after ``most`` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0

    def check(self, losses: Mapping[str, float], iteration: int, batch: Any) -> None:
        """Look at the losses of a step.

        Args:
            losses: loss terms by letter. batch: data.coco.Batch, whose images are named in the warning.

        Raises:
            TooManyBadSteps: this was the last one that is put up with.
        """
        if all(map(math.isfinite, losses.values())):
            self.count = 0
            return
        self.count += 1
        logging.warning("iteration %d is skipped: the loss is not finite: %s; images %s", iteration,
                        ", ".join(f"{name} {value}" for name, value in losses.items()),
                        [sample.image_id for sample in batch.samples])
        if self.count >= self.most:
            raise TooManyBadSteps(f"{self.most} iterations in a row had a loss that is not finite; lower --lr, or look "
                                  "at the images named above", iteration + 1 - self.count)


class StopRequest:
    """Lets Ctrl-C and SIGTERM wait until the loop asks for them; a second one ends the process at once.

    A checkpoint is only made between two steps, so that its weights and its iteration agree. Signals that are ignored,
    as under nohup, stay ignored.

    Attributes:
        signal: number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        logging.warning("stopping after this step; once more stops at once, without a checkpoint")
