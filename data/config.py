"""Every class list, data set, backbone and network, and the global ``cfg`` that drives train.py and eval.py.

To train on your own pictures (COCO-format JSON; tools/x2coco.py makes one of other formats), add some lines like
these at the end of "Networks":

    fish_dataset = dataset_base.copy({
        "name": "Fish",
        "train_images": "./data/fish/train", "train_info": "./data/fish/train.json",
        "valid_images": "./data/fish/val", "valid_info": "./data/fish/val.json",
    })
    yolact_fish_config = yolact_base_config.copy({
        "name": "yolact_fish", "dataset": fish_dataset,
        "max_iter": 20000, "lr_steps": (7000, 15000, 17500, 19000),
    })

and run ``python train.py --config=yolact_fish_config``. The rest follows: the classes and their ids from the
JSON's ``categories``, the number of classes from them, and the anchor sizes from ``max_size``. Some of the
classes, or another order: ``"class_names": ("salmon", "pike")`` (a single class is ``("fish",)``); other labels:
``"label_map": {category_id: label from 1, ...}`` beside them. For one run, keys can be changed on the command
line as well: ``-o max_size=400 dataset.valid_info=other.json``.

A config holds plain data only (numbers, strings, lists), so that it can be printed, compared and saved in
a checkpoint. A misspelt key or a value of the wrong type is an error that names it: see config_types.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from data.config_types import Config, ConfigError, DatasetConfig, YolactConfig

# ---------------------------------------------------------------------------------------- Class lists

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)

# COCO numbers its categories up to 90 but leaves these ten out; labels are numbered from 1 without gaps.
_COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_LABEL_MAP = {
    category_id: label
    for label, category_id in enumerate((i for i in range(1, 91) if i not in _COCO_UNUSED_IDS), start=1)
}

PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)

DEMO_CLASSES = ("circle", "square", "triangle")

# Colours for drawing (red, green, blue), one per class or object in turn.
COLORS = (
    (244, 67, 54), (233, 30, 99), (156, 39, 176), (103, 58, 183), (63, 81, 181), (33, 150, 243),
    (3, 169, 244), (0, 188, 212), (0, 150, 136), (76, 175, 80), (139, 195, 74), (205, 220, 57),
    (255, 235, 59), (255, 193, 7), (255, 152, 0), (255, 87, 34), (121, 85, 72), (158, 158, 158),
    (96, 125, 139),
)

# Mean and standard deviation of ImageNet's pixels (0..255), in the order blue, green, red.
MEANS = (103.94, 116.78, 123.68)
STD = (57.38, 57.12, 58.40)

# ------------------------------------------------------------------------------------------ Data sets

dataset_base = DatasetConfig({
    "name": "Base Dataset",
    "train_images": "./data/coco/images/",  # folder of the pictures
    "train_info": "path_to_annotation_file",  # COCO-format JSON
    "valid_images": "./data/coco/images/",
    "valid_info": "path_to_annotation_file",
    "has_gt": True,  # False: valid_info lists pictures only (COCO test-dev)
    "class_names": None,  # in the network's order; None: those of the JSON, by category id
    "label_map": None,  # {category_id of the JSON: label from 1}; None: categories are matched by their names
})

coco2014_dataset = dataset_base.copy({
    "name": "COCO 2014",
    "train_info": "./data/coco/annotations/instances_train2014.json",
    "valid_info": "./data/coco/annotations/instances_val2014.json",
    "class_names": COCO_CLASSES,
    "label_map": COCO_LABEL_MAP,
})

coco2017_dataset = dataset_base.copy({
    "name": "COCO 2017",
    "train_info": "./data/coco/annotations/instances_train2017.json",
    "valid_info": "./data/coco/annotations/instances_val2017.json",
    "class_names": COCO_CLASSES,
    "label_map": COCO_LABEL_MAP,
})

coco2017_testdev_dataset = dataset_base.copy({
    "name": "COCO 2017 Test-Dev",
    "valid_info": "./data/coco/annotations/image_info_test-dev2017.json",
    "has_gt": False,
    "class_names": COCO_CLASSES,
    "label_map": COCO_LABEL_MAP,
})

pascal_sbd_dataset = dataset_base.copy({
    "name": "Pascal SBD 2012",
    "train_images": "./data/sbd/img",
    "train_info": "./data/sbd/pascal_sbd_train.json",
    "valid_images": "./data/sbd/img",
    "valid_info": "./data/sbd/pascal_sbd_val.json",
    "class_names": PASCAL_CLASSES,
})

demo_dataset = dataset_base.copy({  # drawn by the generator of `make demo`
    "name": "Demo shapes",
    "train_images": "./data/demo/train",
    "train_info": "./data/demo/annotations/instances_train.json",
    "valid_images": "./data/demo/val",
    "valid_info": "./data/demo/annotations/instances_val.json",
    "class_names": DEMO_CLASSES,
})

pond_dataset = dataset_base.copy({  # the README's worked example; the class names are in the JSON
    "name": "Pond",
    "train_images": "./data/pond/photos",
    "train_info": "./data/pond/pond_train.json",
    "valid_images": "./data/pond/photos",
    "valid_info": "./data/pond/pond_val.json",
})

# ------------------------------------------------------------------------------------------ Backbones

resnet101_backbone = Config({
    "name": "ResNet101",
    "path": "resnet101_reducedfc.pth",  # ImageNet weights in --save_folder; None: random weights
    "type": "ResNetBackbone",
    # Blocks of each stage; then, optionally: how many of the last blocks of each are deformable (DCNv2), at
    # which interval (1), and the base width (64).
    "args": ([3, 4, 23, 3],),
    "transform": {"channel_order": "RGB", "normalize": True, "subtract_means": False, "to_float": False},
    "selected_layers": [1, 2, 3],  # stages handed to the FPN, counted from 0: C3, C4, C5
    # For each level P3, P4, ...: anchor sizes in pixels of the network's input; their width / height.
    "pred_scales": [[24], [48], [96], [192], [384]],
    "pred_aspect_ratios": [[[1, 0.5, 2]]] * 5,
    # The released YOLACT networks were trained with all anchors square, by an oversight: it has to stay.
    "use_square_anchors": True,
})

resnet50_backbone = resnet101_backbone.copy({
    "name": "ResNet50",
    "path": "resnet50-19c8e357.pth",
    "args": ([3, 4, 6, 3],),
})

darknet53_backbone = resnet101_backbone.copy({
    "name": "DarkNet53",
    "path": "darknet53.pth",
    "type": "DarkNetBackbone",
    "args": ([1, 2, 8, 8, 4],),
    "transform": {"normalize": False, "to_float": True},
    "selected_layers": [2, 3, 4],
})

resnet101_gn_backbone = resnet101_backbone.copy({
    "name": "ResNet101_GN",
    "path": "R-101-GN.pkl",
    "type": "ResNetBackboneGN",
})

# YOLACT++ (TPAMI 2020, Sec. 6): deformable convolutions, and anchors of three sizes and real aspect ratios.
_three_scales = [[size * 2 ** (step / 3) for step in range(3)] for size in (24, 48, 96, 192, 384)]

resnet101_dcn_inter3_backbone = resnet101_backbone.copy({
    "name": "ResNet101_DCN_Interval3",
    "args": ([3, 4, 23, 3], [0, 4, 23, 3], 3),
})

resnet50_dcnv2_backbone = resnet50_backbone.copy({
    "name": "ResNet50_DCNv2",
    "args": ([3, 4, 6, 3], [0, 4, 6, 3]),
})

# Stages of convolutions (channels) and max pooling ("M"), each with the layer's arguments if they are not the
# usual; then (channels, stride) of the stages that SSD adds, and the stages whose output is normalised.
vgg16_backbone = resnet101_backbone.copy({
    "name": "VGG16",
    "path": "vgg16_reducedfc.pth",
    "type": "VGGBackbone",
    "args": ([[64, 64],
              ["M", 128, 128],
              ["M", 256, 256, 256],
              [["M", {"kernel_size": 2, "stride": 2, "ceil_mode": True}], 512, 512, 512],
              ["M", 512, 512, 512],
              [["M", {"kernel_size": 3, "stride": 1, "padding": 1}],
               [1024, {"kernel_size": 3, "padding": 6, "dilation": 6}], [1024, {"kernel_size": 1}]]],
             [[256, 2]], [3]),
    "transform": {"normalize": False, "subtract_means": True},
    "selected_layers": [3, 5, 6],  # conv4_3, fc7 and SSD's first added stage: strides 8, 16, 32
})

demo_backbone = resnet50_backbone.copy({
    "name": "ResNet17 slim",
    "path": None,
    "args": ([1, 2, 2], None, 1, 32),
    "selected_layers": [1, 2],
    "pred_scales": [[18], [32], [54]],
    "pred_aspect_ratios": [[[1, 0.5, 2]]] * 3,
    "use_square_anchors": False,
})

# ------------------------------------------------------------------------------------------- Networks

yolact_base_config = YolactConfig({
    "name": "yolact_base",
    "dataset": coco2017_dataset,
    "backbone": resnet101_backbone,
    "max_size": 550,  # pictures are resized to this square; changing it alone scales backbone.pred_scales too

    # Training schedule, for batches of batch_size_base pictures (train.py scales it to other batch sizes).
    "batch_size_base": 8,
    "max_iter": 800000,
    "optimizer": "sgd",  # sgd (with momentum), adamw
    "lr": 1e-3,
    "momentum": 0.9,
    "decay": 5e-4,  # weight decay
    "lr_schedule": "step",  # step: lr * gamma at each of lr_steps; cosine: half a cosine to 0 at max_iter
    "gamma": 0.1,
    "lr_steps": (280000, 600000, 700000, 750000),
    "lr_warmup_init": 1e-4,
    "lr_warmup_until": 500,  # iterations
    "freeze_bn": False,  # train.py also freezes batch norm when a device gets fewer than 6 pictures
    "delayed_settings": [],  # [iteration, {key: value}]: weights and thresholds of the losses from then on

    # Losses: weights of conf (C), box (B), mask (M) and semantic segmentation (S).
    "conf_alpha": 1.0,
    "bbox_alpha": 1.5,
    "mask_alpha": 6.125,
    "use_semantic_segmentation_loss": True,
    "semantic_segmentation_alpha": 1.0,
    "masks_to_train": 100,  # at most so many masks per picture enter the mask loss
    "positive_iou_threshold": 0.5,  # an anchor is positive from here on,
    "negative_iou_threshold": 0.4,  # background below this, and ignored in between
    "crowd_iou_threshold": 0.7,  # background anchors this far inside a crowd region are ignored
    "ohem_negpos_ratio": 3,  # background anchors per positive one in the conf loss
    "discard_mask_area": -1,  # objects of no more prototype pixels stay out of the mask IoU loss (I); -1: none
    "maskiou_alpha": 1.0,

    # Losses that the papers compare with, all off in the published networks. The focal loss takes the place of
    # hard negative mining: on a softmax, on sigmoids, or on an objectness that multiplies a softmax.
    "use_focal_loss": False,
    "use_sigmoid_focal_loss": False,
    "use_objectness_score": False,
    "focal_loss_alpha": 0.25,
    "focal_loss_gamma": 2.0,
    "focal_loss_init_pi": 0.01,  # share of foreground that an untrained network predicts
    "use_class_existence_loss": False,  # E: which classes are in the picture
    "class_existence_alpha": 1.0,
    "mask_proto_coeff_diversity_loss": False,  # D: like coefficients for one object, unlike for several
    "mask_proto_coeff_diversity_alpha": 1.0,
    "use_mask_scoring": False,  # I from a branch of the head: it learns the mask's IoU and scales the score
    "mask_scoring_alpha": 1.0,

    # Pictures are stretched to a square, or keep their aspect ratio at the square's area.
    "preserve_aspect_ratio": False,

    # Augmentation of the training pictures.
    "augment_photometric_distort": True,
    "augment_expand": True,
    "augment_random_sample_crop": True,
    "augment_random_mirror": True,
    "augment_random_flip": False,
    "augment_random_rot90": False,
    # Boxes not larger than so many pixels of the network's input are left out of training. As the original's 4 / 550,
    # which was meant as a share, never applies; boxes of a pixel or less always are.
    "discard_box_width": 4 / 550,
    "discard_box_height": 4 / 550,

    # Feature pyramid: num_downsample levels are added below those of the backbone.
    "fpn": {
        "num_features": 256,
        "interpolation_mode": "bilinear",
        "num_downsample": 2,
        "use_conv_downsample": True,
        "pad": True,
        "relu_downsample_layers": False,
        "relu_pred_layers": True,
    },

    # Prediction head. Layers are (channels, kernel size, arguments of the convolution).
    "share_prediction_module": True,
    "extra_head_net": [(256, 3, {"padding": 1})],
    "head_layer_params": {"kernel_size": 3, "padding": 1},

    # Masks: "lincomb" combines prototypes; "direct" predicts mask_size x mask_size pixels of each (fc-mask).
    "mask_type": "lincomb",
    "mask_size": 16,

    # Protonet on FPN level mask_proto_src; (None, -2, {}) doubles the resolution, last are the prototypes.
    "mask_proto_src": 0,
    "mask_proto_net": [(256, 3, {"padding": 1}), (256, 3, {"padding": 1}), (256, 3, {"padding": 1}),
                       (None, -2, {}), (256, 3, {"padding": 1}), (32, 1, {})],
    "mask_proto_prototype_activation": "relu",
    "mask_proto_coeff_activation": "tanh",
    "mask_proto_crop": True,
    "mask_proto_use_grid": False,  # the protonet also sees where it is: two channels of coordinates
    "mask_proto_bias": False,  # one more prototype, 1 everywhere

    # Fast mask re-scoring (YOLACT++): a network estimates each mask's IoU, and its score is multiplied by it.
    "use_maskiou": False,
    "maskiou_net": [],  # as mask_proto_net; a convolution to the classes follows
    "rescore_mask": False,
    "rescore_bbox": False,  # the box's score as well

    # Detection.
    "eval_mask_branch": True,
    "nms_top_k": 200,
    "nms_conf_thresh": 0.05,
    "nms_thresh": 0.5,
    "max_num_detections": 100,
})

yolact_im400_config = yolact_base_config.copy({
    "name": "yolact_im400", "max_size": 400,
})

yolact_im700_config = yolact_base_config.copy({
    "name": "yolact_im700", "max_size": 700,
    "masks_to_train": 300,
})

yolact_darknet53_config = yolact_base_config.copy({
    "name": "yolact_darknet53",
    "backbone": darknet53_backbone,
})

yolact_resnet50_config = yolact_base_config.copy({
    "name": "yolact_resnet50",
    "backbone": resnet50_backbone,
})

yolact_resnet50_pascal_config = yolact_resnet50_config.copy({
    "name": None,  # filled in by make_config
    "dataset": pascal_sbd_dataset,
    "max_iter": 120000,
    "lr_steps": (60000, 100000),
    "backbone": {"pred_scales": [[32], [64], [128], [256], [512]], "use_square_anchors": False},
})

yolact_plus_base_config = yolact_base_config.copy({
    "name": "yolact_plus_base",
    "backbone": resnet101_dcn_inter3_backbone.copy({"pred_scales": _three_scales, "use_square_anchors": False}),
    "use_maskiou": True,
    "maskiou_net": [(8, 3, {"stride": 2}), (16, 3, {"stride": 2}), (32, 3, {"stride": 2}),
                    (64, 3, {"stride": 2}), (128, 3, {"stride": 2})],
    "maskiou_alpha": 25.0,
    "rescore_mask": True,
    "discard_mask_area": 5 * 5,
})

yolact_plus_resnet50_config = yolact_plus_base_config.copy({
    "name": "yolact_plus_resnet50",
    "backbone": resnet50_dcnv2_backbone.copy({"pred_scales": _three_scales, "use_square_anchors": False}),
})

# ----------------------------------------------------------------- Networks that the papers compare with

# YOLACT++, one change at a time: deformable convolutions, in every third block or in each of the last ten;
# more anchors; mask re-scoring.
yolact_base_dcn_config = yolact_base_config.copy({
    "name": "yolact_base_dcn", "backbone": resnet101_dcn_inter3_backbone,
})
yolact_base_dcn_last10_config = yolact_base_config.copy({
    "name": "yolact_base_dcn_last10",
    "backbone": {"name": "ResNet101_DCN_Last10", "args": ([3, 4, 23, 3], [0, 0, 7, 3])},
})
yolact_base_anchors_config = yolact_base_config.copy({
    "name": "yolact_base_anchors",
    "backbone": {"pred_scales": _three_scales, "use_square_anchors": False},
})
yolact_base_maskiou_config = yolact_base_config.copy({
    "name": "yolact_base_maskiou",
    **{key: yolact_plus_base_config[key]
       for key in ("use_maskiou", "maskiou_net", "maskiou_alpha", "rescore_mask", "discard_mask_area")},
})

# YOLACT, Table 2: masks from fully connected layers, and k prototypes.
yolact_fcmask_config = yolact_base_config.copy({"name": "yolact_fcmask", "mask_type": "direct"})
yolact_k8_config, yolact_k16_config, yolact_k64_config = (
    yolact_base_config.copy({
        "name": f"yolact_k{prototypes}",
        "mask_proto_net": [*yolact_base_config.mask_proto_net[:-1], (prototypes, 1, {})]})
    for prototypes in (8, 16, 64))

yolact_vgg16_config = yolact_base_config.copy({"name": "yolact_vgg16", "backbone": vgg16_backbone})
yolact_resnet101_gn_config = yolact_base_config.copy({
    "name": "yolact_resnet101_gn", "backbone": resnet101_gn_backbone,
})

# --------------------------------------------------------------------------- Demo and worked example

# `make demo`: a network small enough to learn the drawn shapes on two processor cores.
yolact_demo_config = yolact_base_config.copy({
    "name": "yolact_demo",
    "dataset": demo_dataset,
    "backbone": demo_backbone,
    "max_size": 96,
    "max_iter": 1200,
    "optimizer": "adamw",
    "lr": 4e-3,
    "lr_schedule": "cosine",
    "lr_warmup_until": 100,
    "conf_alpha": 2.0,  # telling the shapes apart is the hard part, and the dense loss teaches it fastest
    "semantic_segmentation_alpha": 8.0,
    "mask_alpha": 12.25,
    "augment_photometric_distort": False,
    "augment_expand": False,
    "augment_random_sample_crop": False,
    "augment_random_flip": True,
    "augment_random_rot90": True,
    "fpn": {"num_features": 64, "num_downsample": 1},
    "extra_head_net": [(64, 3, {"padding": 1})],
    "mask_proto_net": [(64, 3, {"padding": 1}), (None, -2, {}), (32, 3, {"padding": 1}), (None, -2, {}), (16, 1, {})],
})

# The README's worked example, fine-tuned from the demo network.
yolact_pond_config = yolact_demo_config.copy({
    "name": "yolact_pond",
    "dataset": pond_dataset,
    "max_size": 128,
    "max_iter": 400,
    "lr": 2e-3,
    "augment_photometric_distort": True,
    "augment_random_sample_crop": True,
})

# ---------------------------------------------------------------------- Look-up and the global config

# Filled in place at start-up, by the functions below; nobody writes to it afterwards.
cfg = yolact_base_config.copy()


def available_configs() -> dict[str, YolactConfig]:
    """dict of name -> copy, for every network config of this file."""
    return {name: value.copy() for name, value in globals().items()
            if isinstance(value, YolactConfig) and value is not cfg}


def available_datasets() -> dict[str, DatasetConfig]:
    """dict of name -> copy, for every data set of this file but the template ``dataset_base``."""
    return {name: value.copy() for name, value in globals().items()
            if isinstance(value, DatasetConfig) and value is not dataset_base}


def get_config(name: str) -> YolactConfig:
    """A copy of a network config, by its name in this file: "yolact_base_config", or "yolact_base" for short.

    Raises:
        ConfigError: if there is none; the message names the closest one and lists all.
    """
    return _look_up(name, available_configs(), "config")


def get_dataset(name: str) -> DatasetConfig:
    """A copy of a data set, by its name in this file: "coco2017_dataset", or "coco2017" for short.

    Raises:
        ConfigError: if there is none; the message names the closest one and lists all.
    """
    return _look_up(name, available_datasets(), "dataset")


def _look_up(name: str, known: Mapping[str, Any], kind: str) -> Any:
    for candidate in (name, f"{name}_{kind}"):
        if candidate in known:
            return known[candidate]
    closest = difflib.get_close_matches(f"{name}", known, n=1, cutoff=0.0)[0]
    everything = ", ".join(known)
    raise ConfigError(f"unknown {kind} {name!r}; did you mean {closest!r}? data/config.py has {everything}")


def make_config(name_or_values: str | Mapping[str, Any]) -> YolactConfig:
    """A config by its name, or from the dict of one that was saved in a checkpoint.

    Raises:
        ConfigError: for an unknown name, or an unknown key or a wrong type in the dict.
    """
    if isinstance(name_or_values, Mapping):
        return yolact_base_config.copy(name_or_values)
    new = get_config(name_or_values)
    if new.name is None:
        new.name = name_or_values.rpartition("_config")[0] or name_or_values
    return new


def set_cfg(name_or_values: str | Mapping[str, Any]) -> None:
    """Fill the global ``cfg`` as ``make_config``."""
    cfg.update_in_place(make_config(name_or_values))


def set_dataset(name: str) -> None:
    """Give the global ``cfg`` another data set, by its name."""
    cfg.dataset = get_dataset(name)


def configure(name: str, dataset: str | None = None, assignments: Iterable[str] = ()) -> None:
    """Fill the global ``cfg`` as the commands do: by a config's name, then --dataset, then -o."""
    set_cfg(name)
    if dataset is not None:
        set_dataset(dataset)
    apply_overrides(assignments)


def apply_overrides(assignments: Iterable[str]) -> None:
    """Change the global ``cfg`` by the command line's texts "key=value": by all, or by none if one is wrong.

    Nested keys are written with dots (dataset.valid_info=val.json). Values are Python literals (0.5, True,
    [1, 2]); where a string is expected the quotes may be left out.

    Raises:
        ConfigError: for an unknown key (names the closest one), or a value that cannot be read or has another
            type than the present one.
    """
    cfg.update_in_place(cfg.copy(cfg.parse_overrides(assignments)))
