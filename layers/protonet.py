"""Protonet: a small fully convolutional network that gives the K prototype masks of a picture (Sec. 3.1, Fig. 3)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


class Upsample(nn.Layer):
    """Bilinear upsampling by an integer factor (no corner alignment, as the original)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C, H * factor, W * factor]."""
        size = [side * self.factor for side in x.shape[2:]]  # as a size, which ONNX converters can read
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def make_net(in_channels: int, layers: Sequence[Sequence[Any]],
             include_last_relu: bool = True) -> tuple[nn.Sequential, int]:
    """Build a plain network from the config's list notation, with a ReLU after every entry.

    Args:
        in_channels: channels of the input.
        layers: list of [channels, kernel_size, conv_options]; [None, -n, {}] is bilinear upsampling by n.
        include_last_relu: whether the last entry has its ReLU.

    Returns:
        (nn.Sequential, output channels). Upsampling and ReLUs count as indices, so `proto_net.8` is the original's.
    """
    modules = []
    for channels, kernel_size, options in layers:
        if channels is None:
            modules.append(Upsample(-kernel_size))
        else:
            modules.append(nn.Conv2D(in_channels, channels, kernel_size, **options))
            in_channels = channels
        modules.append(nn.ReLU())
    if not include_last_relu:
        modules.pop()
    return nn.Sequential(*modules), in_channels


class ProtoNet(nn.Sequential):
    """The protonet with what stands around its layers.

    Args:
        in_channels: channels of the pyramid level it works on. layers: in `make_net` notation.
        activation: of the prototypes.
        use_grid: also give it the coordinates of each cell, relative 0..1, as two channels behind the others.
        bias: add a prototype that is 1 everywhere, so that a coefficient can shift the mask.
    """

    def __init__(self, in_channels: int, layers: Sequence[Sequence[Any]],
                 activation: Callable[[Tensor], Tensor], use_grid: bool = False, bias: bool = False) -> None:
        modules, _ = make_net(in_channels + 2 * use_grid, layers, include_last_relu=False)
        super().__init__(*modules)
        self.activation, self.use_grid, self.bias = activation, use_grid, bias

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] -> prototypes [B, h, w, K]."""
        if self.use_grid:
            x = paddle.concat([x, cell_coordinates(x)], axis=1)
        # Not super(), which the translator to static graphs of Paddle 2.6 loses.
        protos = self.activation(nn.Sequential.forward(self, x)).transpose([0, 2, 3, 1])
        if self.bias:
            protos = paddle.concat([protos, paddle.ones_like(protos[..., :1])], axis=-1)
        return protos


def cell_coordinates(x: Tensor) -> Tensor:
    """x and y of the centre of every cell, relative 0..1. [B, C, H, W] -> [B, 2, H, W]."""
    batch, _, height, width = x.shape
    columns = ((paddle.arange(width, dtype=x.dtype) + 0.5) / width).expand([height, width])
    rows = ((paddle.arange(height, dtype=x.dtype) + 0.5) / height).unsqueeze(1).expand([height, width])
    return paddle.stack([columns, rows]).expand([batch, 2, height, width])
