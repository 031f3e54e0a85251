"""Is an exported network the network? Both are run on one picture, and what differs too much is refused.

Engines have computed wrong results without saying so, so that none is trusted before this.
"""
from __future__ import annotations

import contextlib
import os
from typing import Any, Callable

import cv2
import numpy as np
import paddle

from data.config import MEANS, STD, Config
from data.images import DatasetError, read_image
from layers.output_utils import assemble_masks
from utils.augmentations import base_transform
from utils.engines import telling_line
from utils.exported import MASKIOU_NET, NETWORK, load_exported
from utils.in_out import PICTURE_SUFFIXES
from utils.runtime import UserError

# `relative_difference`; measured were up to 8e-6, and up to 0.05 with the 8 bits of bf16.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}
NUM_MASKS = 5  # that the mask IoU net is run on

Cases = dict[str, tuple[np.ndarray, dict[str, paddle.Tensor]]]


def verification_picture(path: str | None, folder: str) -> tuple[str, np.ndarray]:
    """The picture to run both on.

    Args:
        path: of --image, or None. folder: of the validation set's pictures, which may not be there.

    Returns: (what it is called, uint8 [H, W, 3] BGR).
    Raises:
        DatasetError: `path` is no picture.
    """
    if path is not None:
        return os.path.basename(path), read_image(path, apply_orientation=True)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if name.lower().endswith(PICTURE_SUFFIXES):
            with contextlib.suppress(DatasetError):
                return name, read_image(os.path.join(folder, name))
    return "a drawn picture", drawn_picture()


def drawn_picture() -> np.ndarray:
    """Shapes on a cloudy ground, the same every time: uint8 [480, 640, 3] BGR."""
    rng = np.random.RandomState(0)
    picture = cv2.resize(rng.randint(0, 256, (6, 8, 3)).astype(np.float32), (640, 480))
    for _ in range(12):
        centre, axes = rng.randint(0, 640, 2).tolist(), rng.randint(15, 120, 2).tolist()
        cv2.ellipse(picture, centre, axes, int(rng.randint(180)), 0, 360, rng.randint(0, 256, 3).tolist(), -1)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def reference_cases(net: paddle.nn.Layer, config: Config, image_bgr: np.ndarray) -> Cases:
    """Inputs of the models of an export, and what the network itself makes of them.

    Args:
        net: Yolact in evaluation mode. config: its Config. image_bgr: uint8 [H, W, 3].

    Returns:
        dict model -> (input ndarray, dict of output tensors): the network's input is the picture and its mirror image,
        the mask IoU net's the masks of the priors that are most of all an object.
    Raises:
        UserError: an output is not finite.
    """
    image = base_transform(image_bgr, config.max_size, config.backbone.transform, MEANS, STD)
    images = np.stack([image, image[:, :, ::-1]])
    with paddle.no_grad():
        out = net(paddle.to_tensor(images))
        cases = {NETWORK: (images, out)}
        if net.maskiou_net is not None:
            best = (out["conf"][0, :, 1:].max(axis=1) - out["conf"][0, :, 0]).topk(NUM_MASKS)[1]
            masks = assemble_masks(out["proto"][0], out["mask"][0].index_select(best), None, crop_masks=False)
            masks = masks.transpose([2, 0, 1]).unsqueeze(1)
            cases[MASKIOU_NET] = (masks.numpy(), {"iou": net.maskiou_net(masks)})
    for name, (_, outputs) in cases.items():
        for output, tensor in outputs.items():
            if not np.isfinite(tensor.numpy()).all():
                raise UserError(f"the {name} itself gives values that are not finite ({output}); its weights are "
                                "damaged, or not of this config")
    return cases


def verify(folder: str, backend: str, cases: Cases, precision: str, tell: Callable[[str], Any]
           ) -> dict[str, dict[str, float]]:
    """Run all models of an export in an engine, and tell how far they are from the network itself.

    Args:
        folder: of the export. backend: of utils.engines.BACKENDS. precision: of utils.engines.PRECISIONS.
        cases: of `reference_cases`. Each is run as a whole, and the first of its batch alone.
        tell: gets a line for every output.

    Returns:
        dict model -> output -> `relative_difference`.
    Raises:
        UserError: a model does not run, or one of its outputs is too far off.
    """
    exported = load_exported(folder, backend=backend, precision=precision)
    found: dict[str, dict[str, float]] = {}
    tolerance = TOLERANCES[precision]
    for name, (array, expected) in cases.items():
        found[name] = dict.fromkeys(expected, 0.0)
        for count in (1, len(array)):
            try:
                outputs = getattr(exported, name)(array[:count])
            except Exception as error:  # the engines' errors have no class in common
                raise UserError(f"the {name} does not run in {exported.engine} ({telling_line(error)}) and is "
                                "refused") from error
            for output, reference in expected.items():
                reference = reference.numpy() if output == "priors" else reference[:count].numpy()
                difference = relative_difference(outputs[output].numpy(), reference)
                if not difference <= tolerance:
                    raise UserError(f"the {name} in {exported.engine} differs from the network itself in {output}, by "
                                    f"{difference:.2g} of its values where {tolerance:g} is allowed, and is refused")
                found[name][output] = max(found[name][output], difference)
        for output, difference in found[name].items():
            tell(f"  {exported.engine:26s} {name + '.' + output:16s} {difference:8.1e}")
    return found


def relative_difference(array: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference of two arrays, as a share of that of the reference.

    Not the largest difference, which the tanh of the mask coefficients, whose inputs may be in the hundreds, makes far
    larger than that of other outputs. Infinite if their shapes differ or a value is not a number.
    """
    if array.shape != reference.shape:
        return float("inf")
    difference, size = (float(np.sqrt(np.square(values, dtype=np.float64).mean()))
                        for values in (array - reference, reference))
    return float("inf") if np.isnan(difference) else difference / max(size, 1e-30)
