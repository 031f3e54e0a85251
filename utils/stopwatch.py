"""Where the time of one picture goes: seconds of every stage of every picture, and a table of them."""
from __future__ import annotations

import time
from typing import Any, Callable

import numpy as np
import paddle

from utils.instances import encode_window


class Stopwatch:
    """Laps of a repeated sequence of stages.

    Args:
        synchronize: called before the time is read, so that work on a GPU has ended.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None):
        self.seconds: dict[str, list[float]] = {}
        self._synchronize = synchronize
        self._last = 0.0

    def start(self) -> None:
        """Begin a picture."""
        self._last = self._now()

    def lap(self, stage: str) -> None:
        """The stage that has just ended began at the lap before, or at `start`."""
        now = self._now()
        self.seconds.setdefault(stage, []).append(now - self._last)
        self._last = now

    def _now(self):
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()

    def table(self) -> str:
        """Median and 95th percentile in milliseconds, pictures a second, and share of the whole, of every stage."""
        stages = {name: np.array(seconds) for name, seconds in self.seconds.items()}
        total = np.sum(list(stages.values()), axis=0)
        lines = [f"{'stage':12s}{'median ms':>11s}{'p95 ms':>11s}{'FPS':>9s}{'share':>8s}"]
        for name, seconds in [*stages.items(), ("total", total)]:
            median = np.median(seconds)
            lines.append(f"{name:12s}{1000 * median:11.1f}{1000 * np.percentile(seconds, 95):11.1f}"
                         f"{1 / max(median, 1e-9):9.1f}{seconds.sum() / max(total.sum(), 1e-9):8.1%}")
        return "\n".join(lines)


@paddle.no_grad()
def time_picture(predictor: Any, load: Callable[[Any], np.ndarray | None], source: Any, watch: Stopwatch) -> bool:
    """Take the times of one picture, stage by stage.

    Args:
        predictor: utils.predictor.Predictor.
        load: makes of `source`, a path or the place in a data set, uint8 [H, W, 3] BGR; None if it cannot be read.
        source: of the picture. watch: gets the laps.

    Returns:
        Whether it could be loaded; without it there are no laps.
    """
    watch.start()
    image = load(source)
    if image is None:
        return False
    watch.lap("load")
    prepared = predictor.transform(image)
    watch.lap("transform")
    out = predictor.network(prepared[np.newaxis])
    watch.lap("network")
    [detection] = predictor.detections_of(out)
    watch.lap("detection")
    found = predictor.instances(detection, *image.shape[:2])
    windows = [found.window(index) for index in range(len(found))] if found.has_masks else []
    watch.lap("masks")
    for window in windows:
        encode_window(*window, *image.shape[:2])
    watch.lap("encode")
    return True
