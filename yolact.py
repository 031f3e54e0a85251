"""YOLACT: You Only Look At CoefficienTs (Bolya et al., ICCV 2019), and YOLACT++ (TPAMI 2020), the network.

Shapes used everywhere: B batch, P priors, C classes with background, K prototypes, N ground truths, D detections, H W.
Coordinates are relative (0..1) unless a docstring says pixels.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from backbone import build_backbone
from layers.detection import Detect
from layers.fpn import FPN
from layers.heads import PredictionModule, initial_conf_bias
from layers.mask_iou_net import FastMaskIoUNet
from layers.priors import make_priors
from layers.protonet import ProtoNet

ACTIVATIONS = {"relu": F.relu, "sigmoid": F.sigmoid, "tanh": paddle.tanh,
               "softmax": lambda x: F.softmax(x, axis=-1), "none": lambda x: x}


class Yolact(nn.Layer):
    """Backbone -> FPN -> protonet and prediction heads; tensors in, tensors out, detection stays outside.

    Args:
        cfg: a network configuration (`data.config`), read at construction only.

    Parameter names equal the original's state dict; batch norm statistics are Paddle's `_mean` and `_variance`.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.backbone = build_backbone(cfg.backbone)
        channels = [self.backbone.channels[i] for i in cfg.backbone.selected_layers]
        self.selected_layers = list(cfg.backbone.selected_layers)
        self.fpn = FPN(channels, **cfg.fpn.to_dict())
        features = cfg.fpn.num_features

        self.proto_net = None
        if cfg.eval_mask_branch and cfg.mask_type == "lincomb":
            self.proto_net = ProtoNet(features, cfg.mask_proto_net, ACTIVATIONS[cfg.mask_proto_prototype_activation],
                                      cfg.mask_proto_use_grid, cfg.mask_proto_bias)
        self.proto_src = cfg.mask_proto_src
        self.maskiou_net = None
        if cfg.eval_mask_branch and cfg.use_maskiou:
            self.maskiou_net = FastMaskIoUNet(cfg.maskiou_net, cfg.num_classes - 1)

        self.prior_settings = [
            {"scales": scales, "aspect_ratios": ratios, "max_size": cfg.max_size,
             "use_square_anchors": cfg.backbone.use_square_anchors}
            for scales, ratios in zip(cfg.backbone.pred_scales, cfg.backbone.pred_aspect_ratios)]
        self.prior_cache: dict[tuple[tuple[int, ...], ...], Tensor] = {}
        self.share_prediction_module = cfg.share_prediction_module
        self.prediction_layers = nn.LayerList(
            [self._make_head(cfg, s) for s in (self.prior_settings[:1] if cfg.share_prediction_module
                                               else self.prior_settings)])
        self.semantic_seg_conv = None
        if cfg.use_semantic_segmentation_loss:
            self.semantic_seg_conv = nn.Conv2D(features, cfg.num_classes - 1, 1)
        self.class_existence_fc = None
        if cfg.use_class_existence_loss:
            self.class_existence_fc = nn.Linear(features, cfg.num_classes - 1)
        self.bn_frozen = False
        self._init_weights(cfg)

    @staticmethod
    def _make_head(cfg: Any, settings: dict[str, Any]) -> PredictionModule:
        num_priors = len(settings["scales"]) * sum(len(ratios) for ratios in settings["aspect_ratios"])
        activation = F.sigmoid if cfg.mask_type == "direct" else ACTIVATIONS[cfg.mask_proto_coeff_activation]
        return PredictionModule(cfg.fpn.num_features, num_priors, cfg.num_classes, cfg.mask_dim, cfg.extra_head_net,
                                cfg.head_layer_params, activation, cfg.use_mask_scoring)

    def _init_weights(self, cfg: Any) -> None:
        """Xavier-uniform convolutions with zero biases, as the original; in the backbone the default of PyTorch.

        That default, uniform in +-1/sqrt(fan in), keeps a network without pretrained weights finite when batch norm is
        frozen. With Paddle's own, which is larger, every residual block doubles the signal.
        """
        xavier, zero = nn.initializer.XavierUniform(), nn.initializer.Constant(0.0)
        torch_default = nn.initializer.KaimingUniform(negative_slope=math.sqrt(5), nonlinearity="leaky_relu")
        for name, layer in self.named_sublayers():
            if isinstance(layer, nn.Conv2D) and not name.endswith("conv_offset_mask"):  # offsets start at zero
                (torch_default if name.startswith("backbone.") else xavier)(layer.weight)
                if layer.bias is not None:
                    zero(layer.bias)
        if cfg.conf_mode != "ohem":
            for head in self.prediction_layers:
                head.conf_layer.bias.set_value(initial_conf_bias(
                    head.conf_layer.bias.shape[0], cfg.num_classes, cfg.conf_mode, cfg.focal_loss_init_pi))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images: float32 [B, 3, H, W], normalised RGB (utils.augmentations.base_transform).

        Returns:
            dict of
            loc     [B, P, 4]  box offsets against the priors (layers.box_utils.decode),
            conf    [B, P, C]  class logits, background first,
            mask    [B, P, K]  mask coefficients after tanh; with mask_type "direct" the masks, after sigmoid,
            priors  [P, 4]     centre form,
            proto   [B, h, w, K] prototypes after their activation, ReLU; absent without cfg.eval_mask_branch and with
                               mask_type "direct",
            score   [B, P, 1]  logits of the masks' IoU; with cfg.use_mask_scoring only,
            segm    [B, C - 1, h, w] semantic segmentation logits; in training only (Sec. 5),
            classes [B, C - 1] logits of the classes' existence; in training with cfg.use_class_existence_loss only.
        """
        features = self.backbone(images)
        pyramid = self.fpn([features[i] for i in self.selected_layers])

        heads = [self.prediction_layers[0 if self.share_prediction_module else i](level)
                 for i, level in enumerate(pyramid)]
        out = {name: paddle.concat([head[name] for head in heads], axis=1) for name in heads[0]}
        out["priors"] = self.priors([level.shape[2:] for level in pyramid])
        if self.proto_net is not None:
            out["proto"] = self.proto_net(pyramid[self.proto_src])

        if self.training and self.semantic_seg_conv is not None:
            out["segm"] = self.semantic_seg_conv(pyramid[0])
        if self.training and self.class_existence_fc is not None:
            out["classes"] = self.class_existence_fc(pyramid[-1].mean(axis=[2, 3]))
        return out

    def priors(self, level_sizes: Iterable[Sequence[int]]) -> Tensor:
        """All levels' priors for the given [(height, width), ...] -> float32 [P, 4]; kept by input size."""
        key = tuple(tuple(size) for size in level_sizes)
        if key not in self.prior_cache:
            self.prior_cache[key] = paddle.concat(
                [paddle.to_tensor(make_priors(h, w, **settings)) for (h, w), settings in zip(key, self.prior_settings)])
        return self.prior_cache[key]

    def freeze_bn(self) -> None:
        """Freeze every batch norm: statistics fixed, scale and shift untrained (as the original for small batches).

        Stays in force over later calls of `train()`.
        """
        self.bn_frozen = True
        for layer in self.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer.eval()
                layer.weight.stop_gradient = True
                layer.bias.stop_gradient = True

    def train(self) -> None:
        """Training mode; frozen batch norms stay in evaluation mode."""
        super().train()
        if self.bn_frozen:
            self.freeze_bn()


def build_detect(cfg: Any, use_fast_nms: bool = True, cross_class_nms: bool = False) -> Detect:
    """The detection step that belongs to a network of this configuration."""
    return Detect(top_k=cfg.nms_top_k, conf_thresh=cfg.nms_conf_thresh, nms_thresh=cfg.nms_thresh,
                  max_num_detections=cfg.max_num_detections, max_size=cfg.max_size,
                  use_fast_nms=use_fast_nms, cross_class_nms=cross_class_nms, conf_mode=cfg.conf_mode)
