"""The two JSON files of eval.py against a plain reading of the original's rules, picture by picture.

What lies before the rules (network, detection) is compared with the original elsewhere; here are the transform, the
masks, boxes, categories, scores and the order.
"""

import json

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from cli_runs import REPO, evaluate, load, places
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from data.coco import image_order
from data.config import MEANS, STD, get_config, make_config
from utils.networks import load_network
from utils.weights import saved_config
from yolact import build_detect

SHIPPED = REPO / "weights" / "yolact_demo.safetensors"


def transformed(image, config):
    """Bilinear resize to a square, (x - mean) / std, then BGR to RGB."""
    size = (config.max_size, config.max_size)
    image = (cv2.resize(image.astype(np.float32), size) - np.array(MEANS, "f")) / np.array(STD, "f")
    return paddle.to_tensor(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None])


@paddle.no_grad()
def by_the_rules(net, config, image, image_id, category_of_label):
    """(box results, mask results) of one picture; masks are arrays."""
    height, width = image.shape[:2]
    [found] = build_detect(config)(net(transformed(image, config)))
    relative, coeffs = found["box"].numpy(), found["mask"].numpy()
    proto = found["proto"].numpy()
    boxes, masks = [], []
    for number in range(len(relative)):
        x1, y1, x2, y2 = relative[number]
        mask = 1 / (1 + np.exp(-(proto @ coeffs[number])))
        rows, columns = mask.shape
        left, right = sorted((x1 * columns, x2 * columns))
        top, bottom = sorted((y1 * rows, y2 * rows))
        yy, xx = np.mgrid[:rows, :columns]
        left, top = max(left - 1, 0), max(top - 1, 0)
        mask = mask * ((xx >= left) & (xx < min(right + 1, columns)) & (yy >= top) & (yy < min(bottom + 1, rows)))
        enlarged = F.interpolate(paddle.to_tensor(mask[None, None].astype("f")), size=[height, width], mode="bilinear",
                                 align_corners=False).numpy()[0, 0]
        pixel = np.float32([x1 * width, y1 * height, x2 * width, y2 * height])
        low_x, high_x = max(min(pixel[0], pixel[2]), 0), min(max(pixel[0], pixel[2]), width)
        low_y, high_y = max(min(pixel[1], pixel[3]), 0), min(max(pixel[1], pixel[3]), height)
        x1, y1, x2, y2 = (int(value) for value in (low_x, low_y, high_x, high_y))
        if (x2 - x1) * (y2 - y1) <= 0:
            continue
        common = {"image_id": image_id, "category_id": category_of_label[int(found["class"].numpy()[number]) + 1]}
        score = float(found["score"].numpy()[number])
        boxes.append({**common, "bbox": [round(float(v), 1) for v in (x1, y1, x2 - x1, y2 - y1)], "score": score})
        masks.append({**common, "mask": enlarged > 0.5, "score": score})
    return boxes, masks


def assert_equal_results(folder, expected_boxes, expected_masks):
    """Scores within 1e-5, integer boxes within a pixel at truncation edges, masks within two pixels."""
    boxes, masks = load(folder, "bbox_detections.json"), load(folder, "mask_detections.json")
    assert len(boxes) == len(masks) == len(expected_boxes) > 0
    for ours, theirs in zip(boxes, expected_boxes):
        assert list(ours) == list(theirs) and type(ours["score"]) is float
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert abs(ours["score"] - theirs["score"]) < 1e-5
        assert np.abs(np.subtract(ours["bbox"], theirs["bbox"])).max() <= 1
    exact = sum(ours["bbox"] == theirs["bbox"] for ours, theirs in zip(boxes, expected_boxes))
    assert exact >= 0.99 * len(boxes)
    for ours, theirs in zip(masks, expected_masks):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert abs(ours["score"] - theirs["score"]) < 1e-5
        mask = mask_utils.decode(ours["segmentation"]).astype(bool)
        assert mask.shape == theirs["mask"].shape and (mask != theirs["mask"]).sum() <= 2
        assert json.dumps(ours["segmentation"]["counts"])


def check(weights, config, images, info, folder, options, overrides):
    evaluate(weights, folder, "--output_coco_json", *options, overrides=overrides)
    truth = COCO(str(info))
    net = load_network(str(weights), config)
    categories = sorted(truth.cats)
    label_map = config.dataset.label_map or {category: label for label, category in enumerate(categories, 1)}
    category_of_label = {label: category for category, label in label_map.items()}
    ids = list(truth.imgs)
    expected = [by_the_rules(net, config, cv2.imread(str(images / truth.imgs[ids[place]]["file_name"])), ids[place],
                             category_of_label) for place in image_order(ids)]
    assert_equal_results(folder, sum((boxes for boxes, _ in expected), []), sum((masks for _, masks in expected), []))


def test_results_of_the_demo_network(demo_data, tmp_path):
    config = make_config(saved_config(str(SHIPPED)))
    check(SHIPPED, config, demo_data / "val", demo_data / "annotations" / "instances_val.json", tmp_path, [],
          places(demo_data))


def test_results_on_coco(coco_tiny, tmp_path):
    """A network of COCO's classes with drawn weights, on real pictures: category ids have gaps there."""
    from utils.weights import save_npz
    from yolact import Yolact

    overrides = {"max_size": 138, "nms_conf_thresh": 0.012}
    config = get_config("yolact_resnet50").copy(overrides)
    paddle.seed(3)
    net = Yolact(config)
    weights = tmp_path / "yolact_resnet50_1_1.npz"
    save_npz(str(weights), {name: tensor.numpy() for name, tensor in net.state_dict().items()})
    info = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    info["images"] = info["images"][:8]
    kept = {image["id"] for image in info["images"]}
    info["annotations"] = [entry for entry in info["annotations"] if entry["image_id"] in kept]
    (tmp_path / "val.json").write_text(json.dumps(info))
    check(weights, config, coco_tiny / "val2017", tmp_path / "val.json", tmp_path / "out", [],
          [f"{key}={value}" for key, value in overrides.items()]
          + [f"dataset.valid_images={coco_tiny / 'val2017'}", f"dataset.valid_info={tmp_path / 'val.json'}"])
