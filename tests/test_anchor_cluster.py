"""tools/anchor_cluster.py: the best anchor is found exactly; proposals cover more and can be pasted; mistakes."""
import ast
import copy
import json
import re
import shlex

import cv2
import numpy as np
import paddle
import pytest

from data.config import get_config
from data.images import DatasetError
from layers.box_utils import jaccard, point_form
from tools import anchor_cluster
from tools.browse import priors_of
from utils.anchors import best_iou, fit_scales, log_kmeans, shapes_of
from utils.augmentations import input_size

CONFIGS = {"squares": ("yolact_base", []), "three scales": ("yolact_base_anchors", ["max_size=138"]),
           "demo": ("yolact_demo", []), "vgg": ("yolact_vgg16", ["max_size=200"]),
           "darknet": ("yolact_darknet53", ["max_size=170"])}


def config_of(name, *overrides):
    config = get_config(CONFIGS[name][0])
    return config.copy(config.parse_overrides([*CONFIGS[name][1], *overrides]))


def random_objects(count, seed=0, pictures=40):
    """Boxes of all sizes inside their pictures, which have two shapes."""
    rng = np.random.RandomState(seed)
    sides = np.exp(rng.uniform(np.log(0.004), 0, (count, 2)))
    centres = sides / 2 + rng.rand(count, 2) * (1 - sides)
    of_picture = rng.randint(pictures, size=count)
    sizes = np.where(of_picture[:, np.newaxis] % 2, [480, 640], [640, 427])
    return anchor_cluster.Objects(np.hstack([centres, sides]), of_picture, sizes)


def brute_force(config, boxes, height, width):
    """Best IoU with any of all the priors of an input of height x width pixels."""
    overlaps = jaccard(point_form(paddle.to_tensor(boxes.astype(np.float32))),
                       point_form(priors_of(config, height, width)))
    return overlaps.max(axis=1).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_best_anchor_is_the_best_of_all_priors(name):
    config, objects = config_of(name), random_objects(300)
    expected = brute_force(config, objects.boxes, config.max_size, config.max_size)
    np.testing.assert_allclose(anchor_cluster.coverage(config, objects), expected, atol=2e-5)


def test_the_best_anchor_with_preserved_aspect_ratios():
    config, objects = config_of("demo", "preserve_aspect_ratio=True", "max_size=150"), random_objects(200)
    found = anchor_cluster.coverage(config, objects)
    for height, width in ((480, 640), (640, 427)):
        of_shape = (objects.sizes == (height, width)).all(axis=1)
        assert of_shape.any()
        expected = brute_force(config, objects.boxes[of_shape], *input_size(height, width, 150, True))
        np.testing.assert_allclose(found[of_shape], expected, atol=2e-5)


def test_many_boxes_are_cut_into_parts(monkeypatch):
    config, objects = config_of("demo", "preserve_aspect_ratio=True"), random_objects(100)
    at_once = anchor_cluster.coverage(config, objects)
    monkeypatch.setattr("utils.anchors._CHUNK", 7)
    assert np.array_equal(anchor_cluster.coverage(config, objects), at_once)


def test_boxes_at_and_beyond_the_border_have_the_cell_at_the_border():
    level = [(np.array([[4, 2]]), np.array([[0.25, 0.5]]))]
    boxes = np.array([[0.125, 0.25, 0.25, 0.5], [1.0, 1.0, 0.25, 0.5], [1.5, 0.25, 0.25, 0.5]])
    np.testing.assert_allclose(best_iou(boxes, level), [1, 1 / 7, 0])


def test_kmeans_finds_groups_by_ratio_and_repeats_itself():
    rng = np.random.RandomState(0)
    values = np.concatenate([size * np.exp(rng.normal(0, 0.02, 50)) for size in (300, 10, 30)])
    centres = log_kmeans(values, 3, seed=0)
    np.testing.assert_allclose(centres, [10, 30, 300], rtol=0.02)
    cv2.setRNGSeed(99)
    assert np.array_equal(log_kmeans(values, 3, seed=0), centres)


@pytest.mark.parametrize("start", [[[0.2], [0.9]], [[0.095], [0.1]]])
def test_scales_move_to_the_objects(start):
    rng = np.random.RandomState(0)
    sides = np.where(rng.rand(400) < 0.5, 0.1, 0.4)[:, np.newaxis] * np.exp(rng.normal(0, 0.05, (400, 2)))
    boxes = np.hstack([0.3 + 0.4 * rng.rand(400, 2), sides])
    cells = [np.array([[32, 32]]), np.array([[16, 16]])]

    def covered(scales):
        shapes = [shapes_of(level, [1]) for level in scales]
        return (best_iou(boxes, list(zip(cells, shapes))) > 0.5).mean()

    before = copy.deepcopy(start)
    moved = fit_scales(boxes, cells, start, [[1], [1]])
    assert covered(start) < 0.6 and covered(moved) == 1
    assert moved[0] < moved[1]
    assert start == before


def test_scales_stay_in_order_where_another_would_cover_more():
    rng = np.random.RandomState(0)
    boxes = np.hstack([rng.rand(400, 2), np.exp(rng.uniform(np.log(0.02), 0, (400, 2)))])
    moved = fit_scales(boxes, [np.array([[32, 32]]), np.array([[16, 16]])], [[0.05, 0.07, 0.1], [0.2, 0.25, 0.3]],
                       [[1], [1]])
    assert sum(moved, []) == sorted(sum(moved, []))


@pytest.fixture
def info(demo_data):
    return demo_data / "annotations" / "instances_train.json"


def run(capsys, *options):
    anchor_cluster.main(["--config=yolact_demo", *map(str, options)])
    return capsys.readouterr().out


def share_covered(text):
    """The percentages of all objects, one for each set of anchors."""
    return [float(share) for share in re.findall(r"([\d.]+) %", re.search("^all .*$", text, re.M).group())]


def test_a_proposal_can_be_pasted_into_a_config_and_after_o(info, capsys):
    text = run(capsys, f"--info={info}", "--aspect_ratios")
    yours, *proposed = share_covered(text)
    assert len(proposed) == 2 and max(proposed) > yours

    snippet = re.search(r'"backbone": (\{.*?\n    \}),', text, re.S).group(1)
    config = get_config("yolact_demo")
    pasted = config.copy({"backbone": ast.literal_eval(snippet)})
    assert pasted.backbone.pred_scales != config.backbone.pred_scales
    assert [len(level) for level in pasted.backbone.pred_scales] == [1, 1, 1]

    options = shlex.split(re.search(r"^ +-o (.*)$", text, re.M).group(1))
    assert config.copy(config.parse_overrides(options)) == pasted
    again = run(capsys, f"--info={info}", "--aspect_ratios", "-o", *options)
    assert share_covered(again)[0] == max(proposed)
    assert "Keep yours" in again and '"backbone"' not in again


def test_square_anchors_are_explained_and_measured_with_their_true_ratios(info, capsys):
    text = run(capsys, "-o", f"dataset.train_info={info}", "backbone.use_square_anchors=True")
    assert "use_square_anchors" in text.partition("\n\n")[0] and "true ratios" in text
    assert "use_square_anchors" not in run(capsys, f"--info={info}").partition("\n\n")[0]


def test_what_is_printed_is_counted_right(info, capsys):
    text = run(capsys, f"--info={info}", "--seed=3")
    objects = anchor_cluster.read_objects(str(info), "--info")
    measured = anchor_cluster.split(objects, 3)[1]
    config = get_config("yolact_demo")
    assert share_covered(text)[0] == round(100 * (anchor_cluster.coverage(config, measured) > 0.5).mean(), 1)
    row = {line[:24].strip(): int(line[24:32]) for line in text.splitlines() if re.match(r".{24} *\d+ ", line)}
    assert row["all"] == len(measured.boxes) == sum(row[name] for name in anchor_cluster.SIZES)
    assert row["all"] == sum(row[name] for name in anchor_cluster.ASPECTS)
    assert row["small, under 32 x 32"] == (measured.boxes[:, 2:].prod(axis=1) * 96 ** 2 < 32 ** 2).sum()


def test_both_halves_are_of_whole_pictures():
    objects = random_objects(300)
    fitted, measured = anchor_cluster.split(objects, 0)
    assert len(fitted.boxes) + len(measured.boxes) == 300
    assert not set(fitted.pictures) & set(measured.pictures)
    assert len(set(fitted.pictures)) == 20


def test_crowds_and_unusable_annotations_are_left_out(info, tmp_path):
    content = json.loads(info.read_text())
    usable = len(anchor_cluster.read_objects(str(info), "--info").boxes)
    first, second, third = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]][:3]
    first["iscrowd"], second["bbox"][2], third["segmentation"] = 1, 0, []
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    assert len(anchor_cluster.read_objects(str(changed), "--info").boxes) == usable - 3


def test_boxes_are_clipped_and_relative(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({
        "images": [{"id": "a", "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": [{"id": 1, "image_id": "a", "category_id": 1, "bbox": [-20, 50, 60, 100],
                         "segmentation": [[0, 50, 40, 50, 40, 99]]}]}))
    objects = anchor_cluster.read_objects(str(path), "--info")
    np.testing.assert_allclose(objects.boxes, [[0.1, 0.75, 0.2, 0.5]])
    assert objects.sizes.tolist() == [[100, 200]]
    with pytest.raises(DatasetError, match="one picture"):
        anchor_cluster.split(objects, 0)


def test_a_gain_by_chance_is_none():
    old = np.array([0.4] * 6 + [0.6] * 94)
    new = old.copy()
    new[:4] = 0.6
    assert not anchor_cluster.is_better(new, old)
    new[:6] = 0.6
    assert anchor_cluster.is_better(new, old)
    assert not anchor_cluster.is_better(old, new)
    new[6:10] = 0.4  # six gained, four lost
    assert not anchor_cluster.is_better(new, old)


def test_the_plot_is_a_picture(info, tmp_path, capsys):
    path = tmp_path / "new" / "plot.png"
    assert str(path) in run(capsys, f"--info={info}", f"--plot={path}")
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 1000 and (picture == (40, 39, 214)).all(axis=2).any()  # the proposal's red


def scaled(info, path, factor):
    """The annotations with pictures `factor` times as large and objects as before, to their upper left."""
    content = json.loads(info.read_text())
    for image in content["images"]:
        image["width"], image["height"] = image["width"] * factor, image["height"] * factor
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("options, message", [
    (["--info=nowhere.json"], "correct --info"),
    (["-o", "dataset.train_info=nowhere.json"], "correct dataset.train_info"),
    (["--config=yolact_nothing"], "did you mean"),
    (["-o", "max_sice=4"], "max_size"),
    (["--info=empty.json"], "no object with a box and a mask; correct --info"),
    (["--info=few.json"], "too few to fit 3 anchor sizes"),
    (["--info=tiny.json"], "no object is larger than a pixel"),
])
def test_a_mistake_is_one_line(options, message, info, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = json.loads(info.read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**content, "annotations": []}))
    alone = {annotation["image_id"]: annotation for annotation in content["annotations"] if not annotation["iscrowd"]}
    (tmp_path / "few.json").write_text(json.dumps({**content, "annotations": list(alone.values())[:4]}))
    scaled(info, tmp_path / "tiny.json", 1000)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        run(capsys, *options, "--plot=plot.png")
    assert message in str(stop.value) and "\n" not in str(stop.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("seed", ["-1", str(2 ** 31)])
def test_a_seed_out_of_range_is_refused(seed, capsys):
    with pytest.raises(SystemExit) as stop:
        anchor_cluster.parse_args([f"--seed={seed}"])
    assert stop.value.code == 2


def test_coco_gains_by_true_aspect_ratios(coco_tiny, capsys):
    anchor_cluster.main([f"--info={coco_tiny}/annotations/instances_train2017.json"])
    yours, true_ratios, _ = share_covered(capsys.readouterr().out)
    assert true_ratios > yours + 10
