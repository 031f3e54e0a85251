"""One update of a network's weights: forward and backward in parts and over ranks, then one step of the optimizer."""
from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import paddle

from utils import ranks

SMALLEST_BN_BATCH = 6  # images a device; with fewer, batch statistics are too noisy and batch norm is frozen


def amp_type(wanted: bool, device: str) -> str | None:
    """What --amp computes in: 'bfloat16' or 'float16' on a GPU, by what it can do; None in full precision.

    Args:
        wanted: whether --amp was given. device: 'cpu' or 'gpu'.
    """
    if not wanted:
        return None
    if device == "cpu":
        logging.warning("--amp has no effect: Paddle does not compute in half precision on a CPU")
        return None
    return "bfloat16" if paddle.amp.is_bfloat16_supported() else "float16"


class Average:
    """Exponential moving average of a network's tensors: weights and batch norm statistics.

    Args:
        net: starts from its present values. decay: share of the old average that stays, such as 0.9998.
    """

    def __init__(self, net: paddle.nn.Layer, decay: float):
        self.decay = decay
        self.tensors = {name: tensor.clone().detach() for name, tensor in net.state_dict().items()}

    @paddle.no_grad()
    def update(self, net: paddle.nn.Layer) -> None:
        """Take in the network's values after a step."""
        for name, tensor in net.state_dict().items():
            average = self.tensors[name]
            average.set_value(average * self.decay + tensor * (1 - self.decay))

    def swap(self, net: paddle.nn.Layer) -> None:
        """Exchange the network's values with the average; a second call changes them back."""
        for name, tensor in net.state_dict().items():
            value = tensor.clone().detach()
            tensor.set_value(self.tensors[name])
            self.tensors[name] = value


class Update:
    """Makes one step of training from one batch.

    Losses are divided by the positives and pictures of the whole batch, however it is divided: the gradients of the
    parts, and of the ranks, add up to those of the batch in one piece.

    Args:
        net: paddle.nn.Layer in training mode. optimizer: of Paddle; its rate is set every step.
        parts: how many pieces this rank's pictures are computed in (--accumulate), to save memory.
        amp: 'bfloat16' or 'float16' for the network's forward and backward; the loss is in float32. None: all is.
        average: Average to update, or None.
    """

    def __init__(self, net: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, parts: int = 1,
                 amp: str | None = None, average: Average | None = None):
        self.net, self.optimizer, self.parts, self.amp, self.average = net, optimizer, parts, amp, average
        # What a forward pass changes: the statistics of batch norms that are not frozen.
        self.statistics = [getattr(layer, name) for layer in net.sublayers() if layer.training
                           for name in ("_mean", "_variance") if hasattr(layer, name)]
        self.learnt = [parameter for parameter in net.parameters() if not parameter.stop_gradient]
        # bfloat16 has the range of float32 and needs no scaling.
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=1024.0) if amp == "float16" else None

    def __call__(self, criterion: Any, batch: Any, lr: float, key: Sequence[int] = ()) -> dict[str, float]:
        """Step once, unless the loss is not finite.

        Args:
            criterion: layers.multibox_loss.MultiBoxLoss. batch: this rank's pictures (data.coco.Batch).
            lr: learning rate. key: integers that the criterion's random choices depend on.

        Returns: dict of the batch's loss terms over all ranks, floats, taken before the step.
        """
        before = [tensor.clone() for tensor in self.statistics]
        losses = self._accumulate(criterion, batch, key)
        if all(map(math.isfinite, losses.values())):  # the same on every rank
            ranks.add_gradients(self.learnt)
            self._step(lr)
        else:  # the forward pass has already let the batch into batch norm's statistics
            for tensor, value in zip(self.statistics, before):
                tensor.set_value(value)
        self.optimizer.clear_grad()
        return losses

    def _accumulate(self, criterion, batch, key):
        """Gradients of this rank's pictures into the parameters; returns the terms of all ranks."""
        size = -(-len(batch.samples) // self.parts)
        pictures = totals = None
        terms = {}
        for start in range(0, len(batch.samples), size):
            out = self._forward(batch.images[start:start + size])
            if pictures is None:  # the priors come with the first output
                pictures = criterion.match(batch.samples, out["priors"], key)
                totals = ranks.total([sum(len(picture.positives) for picture in pictures), len(pictures)])
            losses = criterion.terms(out, pictures[start:start + size], *totals)
            loss = sum(losses.values())
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            terms = {name: terms.get(name, 0.0) + value.item() for name, value in losses.items()}
        return dict(zip(terms, ranks.total(terms.values())))

    def _forward(self, images):
        with paddle.amp.auto_cast(enable=self.amp is not None, dtype=self.amp or "float16", level="O1"):
            out = self.net(paddle.to_tensor(images))
        return {name: value.astype("float32") for name, value in out.items()} if self.amp else out

    def _step(self, lr):
        self.optimizer.set_lr(lr)
        if self.scaler is None:
            self.optimizer.step()
        else:  # leaves the step out, and lowers the scale, when a gradient has overflowed
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None:
            self.average.update(self.net)
