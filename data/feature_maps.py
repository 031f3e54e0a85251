"""How large the feature maps of a config's network are, without building it.

Imports the standard library only.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def sides_of_levels(side: int, backbone: Any, fpn: Any) -> list[int]:
    """The side of every pyramid level, in cells, of a square picture.

    Args:
        side: of the picture, pixels. backbone, fpn: their configs.
    """
    stages = []
    if backbone.type == "VGGBackbone":
        blocks, added_stages = backbone.args[0], (backbone.args[1:] or [[]])[0]
        for block in blocks:
            for layer in block:
                kind, options = layer if isinstance(layer, list) else (layer, None)
                usual = {"kernel_size": 2, "stride": 2} if kind == "M" else {"kernel_size": 3, "padding": 1}
                side = _side_after(side, **(options or usual))
            stages.append(side)
        for _, stride in added_stages:
            side = _side_after(side, 3, stride, padding=int(stride > 1))
            stages.append(side)
    else:
        side = -(-side // (2 if backbone.type == "DarkNetBackbone" else 4))
        for _ in backbone.args[0]:
            stages.append(side)
            side = -(-side // 2)
    levels = [stages[stage] if fpn.pad else stages[stage] - 2 for stage in backbone.selected_layers]
    for _ in range(min(fpn.num_downsample, 64)):  # one cell is left long before
        levels.append(-(-levels[-1] // 2))
    return levels


def side_after_net(side: int, layers: Sequence[Sequence[Any]]) -> int:
    """The side of what a network in the list notation makes of a square map; 0 or less: nothing is left.

    Args:
        side: of the map, cells. layers: as `mask_proto_net` in data/config.py.
    """
    for channels, kernel_size, options in layers:
        side = -kernel_size * side if channels is None else _side_after(side, kernel_size, **options)
        if side < 1:
            return side
    return side


def _side_after(side: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1,
                ceil_mode: bool = False, **_: Any) -> int:
    """The side of what a convolution or pooling makes of a square map.

    Paddle rounds towards 0: a kernel of 3 with stride 2 makes one cell even of two. PyTorch would refuse that.
    """
    room = side + 2 * padding - dilation * (kernel_size - 1) - 1
    return (-(-room // stride) if ceil_mode or room < 0 else room // stride) + 1
