"""Backbones as feature extractors: ResNet-50/101 (He et al. 2016), plain, deformable or with group norm, DarkNet-53
(Redmon & Farhadi 2018) and VGG-16 (Simonyan & Zisserman 2015, as in SSD).

Each has `layers`, one entry a stage, and `channels`, the width of each stage's output; `forward` returns the list
of all stages' outputs. Parameter names are the original's, so ImageNet weights convert by a table; `is_new` tells
which tensors such weights do not have.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.vision.ops import deform_conv2d


class DeformableConv2D(nn.Layer):
    """Modulated deformable convolution (DCNv2, Zhu et al. 2019, Eq. 1; YOLACT++, Sec. 6.2).

    A plain convolution predicts from the input, for every output cell and each of the kernel's points, how far it
    moves (dy, dx) and how much it counts (sigmoid). It starts from zero: no offset, every point counts half.

    Unlike the plain convolutions of a ResNet it has a bias, as in the original.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 padding: int = 0) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.num_offsets = 2 * kernel_size ** 2
        bound = 1 / math.sqrt(in_channels * kernel_size ** 2)
        self.weight = self.create_parameter([out_channels, in_channels, kernel_size, kernel_size],
                                            default_initializer=nn.initializer.Uniform(-bound, bound))
        self.bias = self.create_parameter([out_channels], is_bias=True)
        zero = nn.initializer.Constant(0.0)
        self.conv_offset_mask = nn.Conv2D(in_channels, 3 * kernel_size ** 2, kernel_size, stride, padding,
                                          weight_attr=zero, bias_attr=zero)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] -> [B, out_channels, H', W']."""
        moved = self.conv_offset_mask(x)
        offset, mask = moved[:, :self.num_offsets], F.sigmoid(moved[:, self.num_offsets:])
        # With the layers before it frozen the mask needs no gradient, and Paddle's backward would crash.
        mask.stop_gradient = False
        return deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, mask=mask)


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 residual block with the stride on the 3x3 convolution (torchvision's layout, as the original)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, deformable: bool = False,
                 norm: Callable[[int], nn.Layer] = nn.BatchNorm2D) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2D(in_channels, width, 1, bias_attr=False)
        self.bn1 = norm(width)
        self.conv2 = (DeformableConv2D(width, width, 3, stride, padding=1) if deformable else
                      nn.Conv2D(width, width, 3, stride, padding=1, bias_attr=False))
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2D(width, out_channels, 1, bias_attr=False)
        self.bn3 = norm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False),
                                            norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in_channels, H, W] -> [B, 4 * width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNetBackbone(nn.Layer):
    """ResNet without its classifier.

    Args:
        layers: blocks in each stage, [3, 4, 23, 3] for ResNet-101.
        dcn_layers: how many of each stage's last blocks may have a deformable 3x3 convolution; None for none.
        dcn_interval: of these, only every dcn_interval-th has one, counted from the stage's first block.
        width: channels of the stem; stage i has 4 * width * 2**i. 64 in the published networks.
        norm: makes a normalisation layer from the number of channels.
    """

    def __init__(self, layers: Sequence[int], dcn_layers: Sequence[int] | None = None, dcn_interval: int = 1,
                 width: int = 64, norm: Callable[[int], nn.Layer] = nn.BatchNorm2D) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(3, width, 7, stride=2, padding=3, bias_attr=False)
        self.bn1 = norm(width)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        self.layers = nn.LayerList()
        self.channels = []
        in_channels = width
        for stage, (blocks, deformable) in enumerate(zip(layers, dcn_layers or [0] * len(layers))):
            stage_width = width * 2 ** stage
            stage_blocks = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                is_deformable = block >= blocks - deformable and block % dcn_interval == 0
                stage_blocks.append(Bottleneck(in_channels, stage_width, stride, is_deformable, norm))
                in_channels = stage_width * Bottleneck.expansion
            self.layers.append(nn.Sequential(*stage_blocks))
            self.channels.append(in_channels)

    @staticmethod
    def is_new(name: str) -> bool:
        """Whether ImageNet weights lack this tensor: what a deformable convolution has and a plain one has not."""
        return "conv_offset_mask" in name or name.endswith(".conv2.bias")

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, 3, H, W] normalised RGB -> [C2, C3, C4, C5] at strides 4, 8, 16, 32."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        return features


class ResNetBackboneGN(ResNetBackbone):
    """ResNet with group norm (Wu & He 2018, 32 groups) in place of batch norm. Arguments as `ResNetBackbone`."""

    def __init__(self, layers: Sequence[int], num_groups: int = 32) -> None:
        super().__init__(layers, norm=lambda channels: nn.GroupNorm(num_groups, channels))


def darknet_conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm and leaky ReLU (slope 0.1), DarkNet's unit."""
    return nn.Sequential(
        nn.Conv2D(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias_attr=False),
        nn.BatchNorm2D(out_channels), nn.LeakyReLU(0.1))


class DarkNetBlock(nn.Layer):
    """1x1 to half the channels, 3x3 back, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = darknet_conv(channels, channels // 2, 1)
        self.conv2 = darknet_conv(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, channels, H, W] -> the same shape."""
        return self.conv2(self.conv1(x)) + x


class DarkNetBackbone(nn.Layer):
    """DarkNet-53 without its classifier.

    Args:
        layers: residual blocks in each stage, [1, 2, 8, 8, 4].
    """

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self._preconv = darknet_conv(3, 32, 3)
        self.layers = nn.LayerList()
        self.channels = []
        in_channels = 32
        for blocks in layers:
            out_channels = in_channels * 2
            self.layers.append(nn.Sequential(darknet_conv(in_channels, out_channels, 3, stride=2),
                                             *[DarkNetBlock(out_channels) for _ in range(blocks)]))
            self.channels.append(out_channels)
            in_channels = out_channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, 3, H, W] RGB in 0..1 -> one map a stage, at strides 2, 4, 8, 16, 32."""
        x = self._preconv(x)
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        return features

    @staticmethod
    def is_new(name: str) -> bool:
        """Whether ImageNet weights lack this tensor: they have all."""
        return False


class VGGBackbone(nn.Layer):
    """VGG-16 as SSD uses it (Liu et al. 2016): fc6 and fc7 are convolutions, and stages may be added behind them.

    Args:
        stages: list of stages, each a list of layers: a number is a 3x3 convolution to so many channels with ReLU,
            "M" a 2x2 max pooling; [layer, arguments] gives it other arguments.
        added_stages: list of [channels, stride]: 1x1 to `channels`, then 3x3 to twice as many.
        norm_layers: indices of the stages whose output is batch-normalised, as its values are large; the later stages
            see it so too, as in the original (SSD only normalises what it hands out).
    """

    def __init__(self, stages: Sequence[Sequence[Any]], added_stages: Sequence[Sequence[int]] = (),
                 norm_layers: Sequence[int] = ()) -> None:
        super().__init__()
        self.layers = nn.LayerList()
        self.channels: list[int] = []
        in_channels = 3
        for stage in stages:
            modules = []
            for entry in stage:
                kind, options = entry if isinstance(entry, (list, tuple)) else (entry, None)
                if kind == "M":
                    modules.append(nn.MaxPool2D(**(options or {"kernel_size": 2, "stride": 2})))
                else:
                    options = options or {"kernel_size": 3, "padding": 1}
                    modules += [nn.Conv2D(in_channels, kind, **options), nn.ReLU()]
                    in_channels = kind
            self._add(modules, in_channels)
        self.num_pretrained = len(stages)
        for channels, stride in added_stages:
            self._add([nn.Conv2D(in_channels, channels, 1), nn.ReLU(),
                       nn.Conv2D(channels, 2 * channels, 3, stride, padding=int(stride > 1)), nn.ReLU()], 2 * channels)
            in_channels = 2 * channels
        self.norm_layers = list(norm_layers)
        self.norms = nn.LayerList([nn.BatchNorm2D(self.channels[i]) for i in norm_layers])

    def _add(self, modules: list[nn.Layer], channels: int) -> None:
        self.layers.append(nn.Sequential(*modules))
        self.channels.append(channels)

    def is_new(self, name: str) -> bool:
        """Whether ImageNet weights lack this tensor: norms and added stages."""
        return name.startswith("norms.") or int(name.split(".")[1]) >= self.num_pretrained

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, 3, H, W] RGB, mean subtracted -> one map a stage, at strides 1, 2, 4, 8, 16, 16 and the added ones."""
        features = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.norm_layers:
                x = self.norms[self.norm_layers.index(i)](x)
            features.append(x)
        return features


BACKBONES = {backbone.__name__: backbone for backbone in
             (ResNetBackbone, ResNetBackboneGN, DarkNetBackbone, VGGBackbone)}


def build_backbone(backbone_cfg: Any) -> nn.Layer:
    """The network named by `backbone_cfg.type`, built with `backbone_cfg.args`.

    Raises:
        ValueError: `backbone.type` is not one of BACKBONES.
    """
    if backbone_cfg.type not in BACKBONES:
        raise ValueError(f"backbone.type {backbone_cfg.type!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[backbone_cfg.type](*backbone_cfg.args)
