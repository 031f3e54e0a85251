"""The prediction head: class, box offsets and mask coefficients of every prior of a level (Sec. 3.2, Fig. 4)."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from paddle import Tensor, nn

from layers.protonet import make_net


class PredictionModule(nn.Layer):
    """One head, shared by all pyramid levels in the shipped configs.

    Args:
        in_channels: channels of a pyramid level.
        num_priors: priors in each cell.
        num_classes: C, with background. mask_dim: K, or the pixels of direct masks.
        extra_head_net: layers before the three branches, in `make_net` notation, or None.
        head_layer_params: options of the three branch convolutions.
        coeff_activation: function applied to the coefficients (tanh, so that prototypes can be subtracted).
        mask_scoring: whether a fourth branch estimates the IoU of the prior's mask.
    """

    def __init__(self, in_channels: int, num_priors: int, num_classes: int, mask_dim: int,
                 extra_head_net: Sequence[Sequence[Any]] | None, head_layer_params: Mapping[str, Any],
                 coeff_activation: Callable[[Tensor], Tensor], mask_scoring: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mask_dim = mask_dim
        self.coeff_activation = coeff_activation
        if extra_head_net:
            self.upfeature, in_channels = make_net(in_channels, extra_head_net)
        else:
            self.upfeature = nn.Identity()
        self.bbox_layer = nn.Conv2D(in_channels, num_priors * 4, **head_layer_params)
        self.conf_layer = nn.Conv2D(in_channels, num_priors * num_classes, **head_layer_params)
        self.mask_layer = nn.Conv2D(in_channels, num_priors * mask_dim, **head_layer_params)
        self.score_layer = nn.Conv2D(in_channels, num_priors, **head_layer_params) if mask_scoring else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: [B, in_channels, H, W] -> dict of loc [B, p, 4], conf [B, p, C] (logits), mask [B, p, K] (coefficients)
        and, with mask scoring, score [B, p, 1] (logits); p = H * W * num_priors."""
        x = self.upfeature(x)
        out = {"loc": flatten_cells(self.bbox_layer(x), 4),
               "conf": flatten_cells(self.conf_layer(x), self.num_classes),
               "mask": self.coeff_activation(flatten_cells(self.mask_layer(x), self.mask_dim))}
        if self.score_layer is not None:
            out["score"] = flatten_cells(self.score_layer(x), 1)
        return out


def flatten_cells(x: Tensor, last: int) -> Tensor:
    """[B, A * last, H, W] -> [B, H * W * A, last], cells in row order and the A priors of a cell together."""
    return x.transpose([0, 2, 3, 1]).reshape([x.shape[0], -1, last])


def initial_conf_bias(size: int, num_classes: int, conf_mode: str, foreground: float) -> np.ndarray:
    """Biases of the class layer so that an untrained network with focal loss predicts little foreground.

    Otherwise the many background priors would drown the first iterations (focal loss paper, Sec. 3.3). The original
    sets the first prior of a cell only, and for the objectness the background's bias; here every prior's share of
    foreground is what it should be.

    Args:
        size: of the bias, priors of a cell times num_classes. num_classes: C.
        conf_mode: "focal" (softmax), "sigmoid" or "objectness". foreground: the share, 0..1.

    Returns: float32 [size].
    """
    logit = math.log(foreground / (1 - foreground))
    bias = np.zeros([size // num_classes, num_classes], "float32")
    if conf_mode == "focal":  # exp(background) : sum of exp(classes) is (1 - foreground) : foreground
        bias[:, 0], bias[:, 1:] = -logit, -math.log(num_classes - 1)
    elif conf_mode == "sigmoid":
        bias[:, 1:] = logit
    else:
        bias[:, 0] = logit
    return bias.ravel()
