"""Guards of a training loop: against losses that are not finite, and against Ctrl-C within a step."""
from __future__ import annotations

import contextlib
import logging
import math
import signal

from utils.runtime import UserError

MAX_BAD_STEPS = 10  # in a row


class BadSteps:
    """Counts steps in a row whose loss is not finite, tells of each, and ends the run after MAX_BAD_STEPS."""

    def __init__(self):
        self.count = 0

    def check(self, losses, iteration, batch):
        """Raises UserError when there were too many."""
        if all(map(math.isfinite, losses.values())):
            self.count = 0
            return
        self.count += 1
        logging.warning("iteration %d is skipped: the loss is not finite: %s; images %s", iteration,
                        ", ".join(f"{name} {value}" for name, value in losses.items()),
                        [sample.image_id for sample in batch.samples])
        if self.count >= MAX_BAD_STEPS:
            raise UserError(f"{MAX_BAD_STEPS} iterations in a row had a loss that is not finite; lower --lr, "
                            "or look at the images named above")


@contextlib.contextmanager
def hold_interrupts():
    """Let Ctrl-C wait for the end of the block, so that a checkpoint's weights and iteration always agree."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as under nohup
        yield
        return
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
