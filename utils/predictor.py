"""From pictures to the objects in them, for eval.py, train.py and your own programs:

    from utils.predictor import load_predictor

    predictor = load_predictor("weights/yolact_base_54_800000.pdparams")
    found = predictor.detect("in.jpg")

It puts the transform, the network, detection and masks together.
Shapes: B pictures, S the network's input size, H W of a picture, D detections.
"""
from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import select_device, set_threads

# isort: split
import numpy as np
import paddle

from data.config import COLORS, MEANS, STD, Config, make_config
from data.images import read_image
from layers.output_utils import postprocess
from utils.augmentations import base_transform
from utils.engines import PaddleModel
from utils.exported import load_exported
from utils.instances import Instances
from utils.networks import locate, open_network
from utils.overlap import ahead
from utils.visualize import draw_detections
from yolact import build_detect

# For people; evaluation takes everything.
SHOWN_TOP_K, SHOWN_SCORE_THRESHOLD = 15, 0.15


class Predictor:
    """Transform, network, detection and mask assembly, one after the other or each on its own.

    Args:
        net: Yolact in evaluation mode, or utils.exported.Exported; beside an engine other than Paddle, Paddle's own
            operators get one thread.
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
        streams: pictures that an engine works on at once beside the caller's thread; 0: Paddle works in that thread.
    """

    def __init__(self, net: Any, config: Config, use_fast_nms: bool = True, cross_class_nms: bool = False,
                 crop: bool = True, score_threshold: float = 0.0, top_k: int | None = None, one_score: bool = False):
        self.class_names = config.dataset.class_names
        self.has_masks = config.eval_mask_branch
        self.transform = functools.partial(
            base_transform, max_size=config.max_size, transform=config.backbone.transform, means=MEANS, std=STD,
            preserve_aspect_ratio=config.preserve_aspect_ratio)
        if isinstance(net, paddle.nn.Layer):
            self.network = lambda images: net(paddle.to_tensor(images))
            self.streams = 0
        else:
            self.network = lambda images: {name: output for name, output in net.network(images).items()
                                           if self.has_masks or name != "proto"}
            self.streams = net.network.streams
            if not isinstance(net.network.run, PaddleModel):
                set_threads(1)  # Paddle's other threads, waiting for more work, would take the engine's time
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

    def detect(self, image: str | os.PathLike | np.ndarray) -> Instances:
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
    def detect_prepared(self, inputs: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Find the objects of several pictures that `transform` has prepared, all of one shape -> list of Instances.

        Args:
            inputs: list of B float32 [3, S, S]. sizes: list of B (height, width) of the pictures.
        """
        detections = self.detections_of(self.network(np.stack(inputs)))
        return [self.instances(detection, *size) for detection, size in zip(detections, sizes)]

    def detect_many(self, pictures: Iterable[tuple[Any, np.ndarray | None]],
                    ) -> Iterator[tuple[Any, np.ndarray | None, Instances | None]]:
        """Find the objects of a stream of pictures. Pictures are read and prepared in a thread ahead of the network.

        An engine works in threads of its own, on `streams` pictures at once, while detection goes on here.

        Args:
            pictures: iterable of (key, uint8 [H, W, 3] BGR or None); only the thread ahead iterates it.

        Yields:
            (key, the picture, Instances), in their order; (key, None, None) for a picture that is None.
        """
        def prepared():
            for key, image in pictures:
                yield key, image, None if image is None else self.transform(image)

        def finish(key, image, network):
            if image is None:
                return key, None, None
            [detection] = self.detections_of(network())
            return key, image, self.instances(detection, *image.shape[:2])

        engine = ThreadPoolExecutor(max(1, self.streams), "network")
        running: deque[tuple[Any, np.ndarray | None, Callable[[], dict]]] = deque()
        with contextlib.closing(ahead(prepared(), max(2, self.streams))) as coming, contextlib.ExitStack() as stack:
            stack.callback(engine.shutdown, cancel_futures=True)
            for key, image, array in coming:
                network: Callable[[], dict] = functools.partial(self._network_alone, array)
                if array is not None and self.streams:
                    network = engine.submit(network).result
                running.append((key, image, network))
                if len(running) > self.streams:
                    yield finish(*running.popleft())
            while running:
                yield finish(*running.popleft())

    @paddle.no_grad()
    def _network_alone(self, array):
        return self.network(array[np.newaxis])

    @paddle.no_grad()
    def instances(self, detection: dict[str, paddle.Tensor], height: int, width: int) -> Instances:
        """One dict of Detect, and the size of its picture -> Instances."""
        return self.instances_and_rows(detection, height, width)[0]

    @paddle.no_grad()
    def instances_and_rows(self, detection: dict[str, paddle.Tensor], height: int, width: int,
                           ) -> tuple[Instances, np.ndarray]:
        """As `instances`, and which of the detections, int [D], each of them is."""
        if self._top_k is not None and not self._rescores_boxes:  # masks of the others need not be made
            best = {key: detection[key][:self._top_k] for key in ("box", "class", "score", "mask")}
            detection = {**detection, **best}
        found = self._postprocess(detection, width, height).numpy()
        if self._rescores_boxes:
            found = found.best(self._top_k, self._score_threshold)
        return Instances(found.classes, found.scores, found.boxes, found.masks, self.class_names, height, width,
                         found.mask_scores), found.rows

    def draw(self, image: str | os.PathLike | np.ndarray, found: Instances, **options: Any) -> np.ndarray:
        """The picture with its objects drawn.

        Args:
            image: as for `detect`. found: what `detect` returned. options: of utils.visualize.draw_detections.

        Returns:
            uint8 [H, W, 3] BGR.
        """
        return draw_detections(as_image(image), found, COLORS, **options)


def as_image(image: str | os.PathLike | np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] BGR as it is, or read from a path; errors as `Predictor.detect`."""
    if not isinstance(image, np.ndarray):
        return read_image(str(image), apply_orientation=True)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"a picture is uint8 [H, W, 3] BGR, not {image.dtype} {list(image.shape)}")
    return image


def load_predictor(weights: str | os.PathLike, config: str | Mapping[str, Any] | None = None,
                   folder: str = "weights/", cuda: bool = True, backend: str = "auto", precision: str = "fp32",
                   streams: int | None = 1, **options: Any) -> Predictor:
    """A Predictor for programs.

    Args:
        weights: a file of any format, a released network's name, or a folder that tools/export.py wrote.
        config: a config's name (default: the one that belongs to the weights).
        folder: where a released network is downloaded to. cuda: use a GPU if there is one.
        backend: "paddle", "onnxruntime", "openvino"; "auto": Paddle on a GPU, else the fastest that is installed.
        precision: "fp32", or "bf16", on processors (with OpenVINO) and GPUs that have it.
        streams: 1 for the least time of one picture; None for the most pictures a second with `detect_many`.
        options: of Predictor; defaults as for pictures: score_threshold 0.15, top_k 15, one_score.

    Raises:
        UserError, ConfigError: the weights, the config or the backend cannot be used.
    """
    options = {"score_threshold": SHOWN_SCORE_THRESHOLD, "top_k": SHOWN_TOP_K, "one_score": True, **options}
    use_gpu = select_device(cuda) == "gpu"
    set_threads()
    if os.path.isdir(weights):
        net = load_exported(str(weights), use_gpu, backend, precision, streams)
        return Predictor(net, make_config(net.description["config"]), **options)
    path, network_config, _ = locate(str(weights), config, folder)
    net, _ = open_network(path, network_config, backend, precision, streams, use_gpu)
    return Predictor(net, network_config, **options)
