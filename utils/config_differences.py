"""In which keys two configs differ, and which keys matter to a network with given weights.

Configs are plain nested dicts here, as ``Config.to_dict`` gives them and as checkpoints keep them.
"""
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Difference = tuple[str, Any, Any]
# Config keys, or their beginnings, that change what given weights find.
NETWORK_KEYS = (
    "max_size", "max_num_detections", "nms_", "mask_type", "mask_size", "mask_proto_", "fpn.", "head_layer_params",
    "extra_head_net", "share_prediction_module", "preserve_aspect_ratio", "use_focal_loss", "use_sigmoid_focal_loss",
    "use_objectness_score", "use_mask_scoring", "use_maskiou", "maskiou_net", "rescore_", "backbone.args",
    "backbone.pred_", "backbone.selected_layers", "backbone.transform", "backbone.type",
    "backbone.use_square_anchors", "dataset.class_names", "dataset.label_map")


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain nested dict as JSON gives it back, as {dotted key: value}; label maps stay whole."""
    def leaves(group: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in group.items():
            if isinstance(value, dict) and key != "label_map":
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(leaves(json.loads(json.dumps(config)), ""))


def config_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[Difference]:
    """Keys in which the config of a checkpoint differs from the present one.

    Args:
        saved, current: plain nested dicts; integer keys and their JSON form count as equal.
    Returns:
        list of (dotted key, saved value, present value); a key that one of them lacks has the value None.
    """
    theirs, ours = flat_config(saved), flat_config(current)
    return [(key, theirs.get(key), ours.get(key)) for key in sorted({*theirs, *ours})
            if theirs.get(key) != ours.get(key)]


def network_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[Difference]:
    """Those ``config_differences`` that change what the saved weights find: network and detection."""
    return [difference for difference in config_differences(saved, current)
            if difference[0].startswith(NETWORK_KEYS)]
