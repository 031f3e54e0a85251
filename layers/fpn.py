"""Feature pyramid (Lin et al. 2017) as in YOLACT Sec. 4: without P2, with P6 and P7 made from P5."""
from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn


class FPN(nn.Layer):
    """C3..C5 in, P3..P7 out, all with the same number of channels.

    Args:
        in_channels: channels of the backbone's maps, shallowest first.
        num_features: channels of every output.
        num_downsample: how many levels are added below the deepest one.
        use_conv_downsample: by a stride-2 convolution; otherwise every second cell is taken.
        pad: pad the 3x3 convolutions by 1.
        interpolation_mode: of the top-down path.
        relu_pred_layers, relu_downsample_layers: ReLU after the output / added levels' convolutions. The shipped
            configs have none on the added levels.

    `lat_layers` and `pred_layers` are stored deepest first, the original's order in its state dict.
    """

    def __init__(self, in_channels: Sequence[int], num_features: int, num_downsample: int,
                 use_conv_downsample: bool = True, pad: bool = True, interpolation_mode: str = "bilinear",
                 relu_pred_layers: bool = True, relu_downsample_layers: bool = False) -> None:
        super().__init__()
        padding = 1 if pad else 0
        self.lat_layers = nn.LayerList([nn.Conv2D(c, num_features, 1) for c in reversed(in_channels)])
        self.pred_layers = nn.LayerList(
            [nn.Conv2D(num_features, num_features, 3, padding=padding) for _ in in_channels])
        if use_conv_downsample:
            self.downsample_layers = nn.LayerList(
                [nn.Conv2D(num_features, num_features, 3, stride=2, padding=1) for _ in range(num_downsample)])
        else:
            self.downsample_layers = [nn.MaxPool2D(1, stride=2) for _ in range(num_downsample)]
        self.interpolation_mode = interpolation_mode
        self.relu_pred_layers = relu_pred_layers
        self.relu_downsample_layers = relu_downsample_layers

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """features: list of [B, C_i, H_i, W_i], shallowest first -> list of [B, num_features, H_i, W_i]."""
        top_down = None
        pyramid: list[Tensor] = []
        for feature, lateral, predict in zip(reversed(features), self.lat_layers, self.pred_layers):
            summed = lateral(feature)
            if top_down is not None:
                summed = summed + F.interpolate(top_down, size=feature.shape[2:], mode=self.interpolation_mode,
                                                align_corners=False)
            top_down = summed
            level = predict(summed)
            pyramid.insert(0, F.relu(level) if self.relu_pred_layers else level)
        added = pyramid[-1]
        for downsample in self.downsample_layers:
            added = downsample(added)
            pyramid.append(F.relu(added) if self.relu_downsample_layers else added)
        return pyramid
