"""From pictures to the objects in them, for eval.py, train.py and your own programs:

    from utils.predictor import load_predictor

    predictor = load_predictor("weights/yolact_base_54_800000.pdparams")
    found = predictor.detect("in.jpg")

The one module of utils that knows the network: it puts the transform, the network, detection and masks together.
Shapes: B pictures, S the network's input size, H W of a picture, D detections.
"""
from __future__ import annotations

import functools
import os

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError, select_device, set_threads

# isort: split
import numpy as np
import paddle

from data.config import COLORS, MEANS, STD, ConfigError, get_config, make_config
from data.images import read_image
from layers.output_utils import postprocess
from utils.augmentations import base_transform
from utils.checkpoint import find, name_of_config
from utils.exported import load_exported
from utils.instances import Instances
from utils.released import weights_file
from utils.visualize import draw_detections
from utils.weights import load_weights, read_weights, saved_config
from yolact import Yolact, build_detect

# For people; evaluation takes everything.
SHOWN_TOP_K, SHOWN_SCORE_THRESHOLD = 15, 0.15


class Predictor:
    """Transform, network, detection and mask assembly, one after the other or each on its own.

    Args:
        net: Yolact in evaluation mode, or utils.exported.Exported.
        config: its configuration.
        use_fast_nms, cross_class_nms: the kind of NMS.
        crop: cut masks to their boxes.
        score_threshold: only what is scored above it. top_k: so many of the best of a picture; None: all.
        one_score: a network that re-scores masks gives boxes their scores too, as pictures show one score an object.

    Raises:
        ValueError: top_k is below 1.

    Attributes:
        class_names: list of str. has_masks: whether the network has masks.
        transform: uint8 [H, W, 3] BGR -> float32 [3, S, S].
        network: float32 [B, 3, S, S] -> dict of tensors, as yolact.Yolact.forward in evaluation.
        detections_of: such a dict -> list of B dicts, layers.detection.Detect.
    """

    def __init__(self, net, config, use_fast_nms=True, cross_class_nms=False, crop=True, score_threshold=0.0,
                 top_k=None, one_score=False):
        self.class_names = config.dataset.class_names
        self.has_masks = config.eval_mask_branch
        self.transform = functools.partial(
            base_transform, max_size=config.max_size, transform=config.backbone.transform, means=MEANS, std=STD,
            preserve_aspect_ratio=config.preserve_aspect_ratio)
        if isinstance(net, paddle.nn.Layer):
            self.network = lambda images: net(paddle.to_tensor(images))
        else:
            self.network = lambda images: {name: output for name, output in net.network(images).items()
                                           if self.has_masks or name != "proto"}
        self.detections_of = build_detect(config, use_fast_nms, cross_class_nms)
        maskiou_net = net.maskiou_net if config.rescore_mask else None
        self._rescores_boxes = maskiou_net is not None and (one_score or config.rescore_bbox)
        self._postprocess = functools.partial(
            postprocess, score_threshold=score_threshold, crop_masks=crop and config.mask_proto_crop,
            direct_masks=config.mask_type == "direct" and config.eval_mask_branch, maskiou_net=maskiou_net,
            rescore_bbox=self._rescores_boxes)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all")
        self._score_threshold = score_threshold
        self._top_k = top_k

    def detect(self, image):
        """Find the objects of one picture.

        Args:
            image: path of a picture, whose EXIF orientation is respected, or uint8 [H, W, 3] BGR, as cv2.imread gives.

        Returns:
            utils.instances.Instances, by falling score.

        Raises:
            DatasetError: the file is missing or no picture. ValueError: the array is no such picture.
        """
        image = as_image(image)
        return self.detect_prepared([self.transform(image)], [image.shape[:2]])[0]

    @paddle.no_grad()
    def detect_prepared(self, inputs, sizes):
        """Find the objects of several pictures that `transform` has prepared, all of one shape -> list of Instances.

        Args:
            inputs: list of B float32 [3, S, S]. sizes: list of B (height, width) of the pictures.
        """
        detections = self.detections_of(self.network(np.stack(inputs)))
        return [self.instances(detection, *size) for detection, size in zip(detections, sizes)]

    @paddle.no_grad()
    def instances(self, detection, height, width):
        """One dict of Detect, and the size of its picture -> Instances."""
        return self.instances_and_rows(detection, height, width)[0]

    @paddle.no_grad()
    def instances_and_rows(self, detection, height, width):
        """As `instances`, and which of the detections, int [D], each of them is."""
        if self._top_k is not None and not self._rescores_boxes:  # masks of the others need not be made
            best = {key: detection[key][:self._top_k] for key in ("box", "class", "score", "mask")}
            detection = {**detection, **best}
        found = self._postprocess(detection, width, height).numpy()
        if self._rescores_boxes:
            found = found.best(self._top_k, self._score_threshold)
        return Instances(found.classes, found.scores, found.boxes, found.masks, self.class_names, height, width,
                         found.mask_scores), found.rows

    def draw(self, image, found, **options):
        """The picture with its objects drawn.

        Args:
            image: as for `detect`. found: what `detect` returned. options: of utils.visualize.draw_detections.

        Returns:
            uint8 [H, W, 3] BGR.
        """
        return draw_detections(as_image(image), found, COLORS, **options)


def as_image(image):
    """uint8 [H, W, 3] BGR as it is, or read from a path; errors as `Predictor.detect`."""
    if not isinstance(image, np.ndarray):
        return read_image(str(image), apply_orientation=True)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"a picture is uint8 [H, W, 3] BGR, not {image.dtype} {list(image.shape)}")
    return image


def load_predictor(weights, config=None, folder="weights/", cuda=True, **options):
    """A Predictor for programs.

    Args:
        weights: a file of any format, a released network's name, or a folder that tools/export.py wrote.
        config: a config's name (default: the one that belongs to the weights).
        folder: where a released network is downloaded to. cuda: use a GPU if there is one.
        options: of Predictor; defaults as for pictures: score_threshold 0.15, top_k 15, one_score.

    Raises:
        UserError, ConfigError: the weights or the config cannot be used.
    """
    options = {"score_threshold": SHOWN_SCORE_THRESHOLD, "top_k": SHOWN_TOP_K, "one_score": True, **options}
    use_gpu = select_device(cuda) == "gpu"
    set_threads()
    if os.path.isdir(weights):
        net = load_exported(weights, use_gpu)
        return Predictor(net, make_config(net.description["config"]), **options)
    path, config, _ = locate(str(weights), config, folder)
    return Predictor(load_network(path, config), config, **options)


def locate(trained_model, config_name, folder, bar=True):
    """Weights and the config that belongs to them: the named one, else that saved with them, else that of their name.

    Args:
        trained_model, config_name, folder: as eval.py's --trained_model, --config, --save_folder. bar: for a download.

    Returns: (path, Config, dict of the config saved with the weights or None).

    Raises:
        UserError, ConfigError: there is no such file or config, or no way to tell the config.
    """
    config = None if config_name is None else make_config(config_name)
    if trained_model in ("latest", "interrupt"):
        if config is None:
            raise UserError(f"--trained_model={trained_model} needs --config, to know whose it is; or name a file")
        path = find(folder, trained_model, config.name)
    else:
        path = weights_file(trained_model, folder, get_config, bar)
    saved = saved_config(path)
    if config is None:
        try:
            config = make_config(saved or name_of_config(path))
        except ConfigError as error:
            source = "saved with" if saved else "in the name of"
            raise UserError(f"the config {source} {path} cannot be used: {error}; pass --config") from error
    return path, config, saved


def load_network(path, config):
    """The network of a config with the weights of a file, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read or does not fit the config.
    """
    net = Yolact(config)
    weights = read_weights(path)
    if not config.eval_mask_branch:
        weights = {name: array for name, array in weights.items()
                   if not name.startswith(("proto_net.", "maskiou_net."))}
    load_weights(net, weights)
    net.eval()
    return net
