"""Protonet: a small fully convolutional network that gives the K prototype masks of a picture (Sec. 3.1, Fig. 3)."""
import paddle.nn.functional as F
from paddle import nn


class Upsample(nn.Layer):
    """Bilinear upsampling by an integer factor (no corner alignment, as the original)."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        """x: [B, C, H, W] -> [B, C, H * factor, W * factor]."""
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)


def make_net(in_channels, layers, include_last_relu=True):
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
