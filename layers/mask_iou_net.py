"""Fast mask re-scoring: how well a mask fits its object, estimated from the mask alone (YOLACT++, Sec. 6.1)."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle.nn.functional as F
from paddle import Tensor, nn

from layers.protonet import make_net


class FastMaskIoUNet(nn.Layer):
    """A small convolutional network with a global maximum at its end.

    Args:
        layers: in `make_net` notation; a 1x1 convolution to the classes follows, with a ReLU as all of them. So an
            estimate may exceed 1, and that of an empty mask 0.
        num_classes: classes without background.
    """

    def __init__(self, layers: Sequence[Sequence[Any]], num_classes: int) -> None:
        super().__init__()
        self.maskiou_net, _ = make_net(1, [*layers, (num_classes, 1, {})])

    def forward(self, masks: Tensor) -> Tensor:
        """masks: [N, 1, h, w] in 0..1, cropped, at prototype size -> estimated IoU of each class [N, C - 1]."""
        estimates = self.maskiou_net(masks)
        # Not max(): Paddle 2.6 hands its gradient to every one of equal maxima, and flat masks have many.
        return F.max_pool2d(estimates, estimates.shape[2:]).flatten(1)

    def of_class(self, masks: Tensor, classes: Tensor) -> Tensor:
        """Estimated IoU of masks [h, w, N] that show objects of the classes int64 [N], 0-based -> [N]."""
        estimates = self(masks.transpose([2, 0, 1]).unsqueeze(1))
        return estimates.take_along_axis(classes.unsqueeze(1), axis=1).squeeze(1)
