"""Backbones: ResNet-50/101 (He et al. 2016) and DarkNet-53 (Redmon & Farhadi 2018), as feature extractors.

Each has `layers`, one entry a stage, and `channels`, the width of each stage's output; `forward` returns the list
of all stages' outputs. Parameter names are the original's, so ImageNet weights convert by a table.
"""
import paddle.nn.functional as F
from paddle import nn


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 residual block with the stride on the 3x3 convolution (torchvision's layout, as the original)."""

    expansion = 4

    def __init__(self, in_channels, width, stride=1):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2D(in_channels, width, 1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = nn.Conv2D(width, width, 3, stride=stride, padding=1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv3 = nn.Conv2D(width, out_channels, 1, bias_attr=False)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2D(in_channels, out_channels, 1, stride=stride, bias_attr=False),
                                            nn.BatchNorm2D(out_channels))

    def forward(self, x):
        """x: [B, in_channels, H, W] -> [B, 4 * width, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNetBackbone(nn.Layer):
    """ResNet without its classifier.

    Args:
        layers: blocks in each stage, [3, 4, 23, 3] for ResNet-101.
        width: channels of the stem; stage i has 4 * width * 2**i. 64 in the published networks.
    """

    def __init__(self, layers, width=64):
        super().__init__()
        self.conv1 = nn.Conv2D(3, width, 7, stride=2, padding=3, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        self.layers = nn.LayerList()
        self.channels = []
        in_channels = width
        for stage, blocks in enumerate(layers):
            stage_width = width * 2 ** stage
            stride = 1 if stage == 0 else 2
            stage_blocks = []
            for block in range(blocks):
                stage_blocks.append(Bottleneck(in_channels, stage_width, stride if block == 0 else 1))
                in_channels = stage_width * Bottleneck.expansion
            self.layers.append(nn.Sequential(*stage_blocks))
            self.channels.append(in_channels)

    def forward(self, x):
        """x: [B, 3, H, W] normalised RGB -> [C2, C3, C4, C5] at strides 4, 8, 16, 32."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        return features


def darknet_conv(in_channels, out_channels, kernel_size, stride=1):
    """Convolution, batch norm and leaky ReLU (slope 0.1), DarkNet's unit."""
    return nn.Sequential(
        nn.Conv2D(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias_attr=False),
        nn.BatchNorm2D(out_channels), nn.LeakyReLU(0.1))


class DarkNetBlock(nn.Layer):
    """1x1 to half the channels, 3x3 back, plus the input."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = darknet_conv(channels, channels // 2, 1)
        self.conv2 = darknet_conv(channels // 2, channels, 3)

    def forward(self, x):
        """x: [B, channels, H, W] -> the same shape."""
        return self.conv2(self.conv1(x)) + x


class DarkNetBackbone(nn.Layer):
    """DarkNet-53 without its classifier.

    Args:
        layers: residual blocks in each stage, [1, 2, 8, 8, 4].
    """

    def __init__(self, layers):
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

    def forward(self, x):
        """x: [B, 3, H, W] RGB in 0..1 -> one map a stage, at strides 2, 4, 8, 16, 32."""
        x = self._preconv(x)
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        return features


BACKBONES = {"ResNetBackbone": ResNetBackbone, "DarkNetBackbone": DarkNetBackbone}


def build_backbone(backbone_cfg):
    """The network named by `backbone_cfg.type`, built with `backbone_cfg.args`.

    Raises:
        ValueError: `backbone.type` is not one of BACKBONES.
    """
    if backbone_cfg.type not in BACKBONES:
        raise ValueError(f"backbone.type {backbone_cfg.type!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[backbone_cfg.type](*backbone_cfg.args)
