"""COCO result files and COCOeval figures: known detections give known figures."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from utils.coco_results import (
    METRIC_NAMES,
    CocoFormat,
    CocoResults,
    class_table,
    coco_metrics,
    compact_table,
    completed_annotation,
    evaluate_results,
    validation_figures,
    write_metrics,
)
from utils.files import write_json
from utils.instances import Instances

SIZE = 100
LABEL_MAP = {3: 1, 7: 2}  # category ids with gaps, as in COCO
# image id -> list of (category id, x1, y1, x2, y2); image 40 has no objects
OBJECTS = {
    10: [(3, 10, 10, 50, 50), (7, 55, 50, 95, 90)],
    20: [(3, 20, 30, 60, 70)],
    30: [(7, 5, 5, 45, 45), (3, 50, 50, 90, 90)],
    40: [],
}


def make_coco(objects=None, **changes):
    """COCO object over square objects; ``changes`` go into every annotation, None removes the key."""
    objects = OBJECTS if objects is None else objects
    annotations = []
    for image_id, entries in objects.items():
        for category, x1, y1, x2, y2 in entries:
            annotation = {
                "id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], **changes}
            annotations.append({key: value for key, value in annotation.items() if value is not None})
    return coco_from({
        "images": [{"id": image_id, "width": SIZE, "height": SIZE} for image_id in objects],
        "categories": [{"id": 3, "name": "square"}, {"id": 7, "name": "circle"}], "annotations": annotations})


def coco_from(dataset):
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def add_boxes(results, place, image_id, entries, score=0.9):
    """Add detections given as (category id, x1, y1, x2, y2[, score]) whose masks fill their boxes."""
    boxes = np.array([entry[1:5] for entry in entries], np.int64).reshape(-1, 4)
    masks = np.zeros((len(entries), SIZE, SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[max(y1, 0):y2, max(x1, 0):x2] = True
    scores = np.array([entry[5] if len(entry) > 5 else score for entry in entries], np.float32)
    add(results, image_id, [LABEL_MAP[entry[0]] - 1 for entry in entries], boxes, scores, masks, place=place)


def add(results, image_id, classes, boxes, scores, masks, mask_scores=None, place=0):
    results.add(place, image_id, Instances(classes, scores, boxes, masks, None, SIZE, SIZE, mask_scores))


def results_of(detections):
    results = CocoResults(LABEL_MAP)
    for place, (image_id, entries) in enumerate(detections.items()):
        add_boxes(results, place, image_id, entries)
    return results


def both_metrics(coco, detections, image_ids=None):
    metrics, _ = evaluate_results(coco, results_of(detections).lists(), list(image_ids or OBJECTS))
    return metrics["bbox"], metrics["segm"]


# ---------------------------------------------------------------------------------------- known figures

def test_ground_truth_as_predictions_scores_one():
    for metrics in both_metrics(make_coco(), OBJECTS):
        for name in ("AP", "AP50", "AP75", "APm", "AR10", "AR100", "ARm"):
            assert metrics[name] == pytest.approx(1.0), name
        assert metrics["APs"] == -1 and metrics["APl"] == -1  # all objects are of medium size
        assert metrics["per_iou"] == pytest.approx([1.0] * 10)
        assert metrics["per_class"] == pytest.approx({"square": 1.0, "circle": 1.0})


def test_shift_of_known_iou_passes_exactly_the_thresholds_under_it():
    # 40 x 40 boxes moved by 6 pixels: IoU = 34 / 46 = 0.739, so .50 to .70 match and .75 to .95 do not.
    moved = {image_id: [(category, x1, y1 - 5, x2, y2 - 5) if y2 > 94 else (category, x1, y1 + 6, x2, y2 + 6)
                        for category, x1, y1, x2, y2 in entries] for image_id, entries in OBJECTS.items()}
    for metrics in both_metrics(make_coco(), moved):
        assert metrics["AP"] == pytest.approx(0.5)
        assert metrics["AP50"] == pytest.approx(1.0) and metrics["AP75"] == 0
        assert metrics["per_iou"] == pytest.approx([1.0] * 5 + [0.0] * 5)


def test_missed_objects_cap_the_recall():
    # Of the class "circle" one object of two is found: precision 1 on the 51 of 101 recall points up to 0.5.
    found = {**OBJECTS, 30: [entry for entry in OBJECTS[30] if entry[0] != 7]}
    for metrics in both_metrics(make_coco(), found):
        assert metrics["per_class"] == pytest.approx({"square": 1.0, "circle": 51 / 101})
        assert metrics["AP"] == pytest.approx((1 + 51 / 101) / 2)
        assert metrics["AR100"] == pytest.approx(0.75)


@pytest.mark.parametrize("score, expected", [(0.95, 0.5), (0.1, 1.0)])
def test_false_positives_cost_only_if_they_outrank(score, expected):
    objects = {10: [(3, 10, 10, 50, 50)]}
    detections = {10: [(3, 10, 10, 50, 50, 0.9), (3, 60, 60, 90, 90, score)]}
    for metrics in both_metrics(make_coco(objects), detections, [10]):
        assert metrics["AP"] == pytest.approx(expected)


def test_wrong_class_scores_zero():
    swapped = {image_id: [(10 - entry[0], *entry[1:]) for entry in entries]
               for image_id, entries in OBJECTS.items()}
    for metrics in both_metrics(make_coco(), swapped):
        assert metrics["AP"] == 0 and metrics["AR100"] == 0


def test_detections_on_an_image_without_annotations_are_false_positives():
    coco = make_coco({10: [(3, 10, 10, 50, 50)], 40: []})
    detections = {10: [(3, 10, 10, 50, 50, 0.5)], 40: [(3, 10, 10, 50, 50, 0.9)]}
    for metrics in both_metrics(coco, detections, [10, 40]):
        assert metrics["AP"] == pytest.approx(0.5)
    for metrics in both_metrics(coco, detections, [10]):
        assert metrics["AP"] == pytest.approx(1.0)


def test_a_detection_on_a_crowd_counts_neither_for_nor_against():
    coco = make_coco({10: [(3, 10, 10, 50, 50)]})
    region = {"id": 9, "image_id": 10, "category_id": 3, "iscrowd": 1, "bbox": [60, 60, 40, 40], "area": 1600,
              "segmentation": {"size": [SIZE, SIZE], "counts": [60 * SIZE + 60] + [40, 60] * 39 + [40]}}
    coco = coco_from({**coco.dataset, "annotations": coco.dataset["annotations"] + [region]})
    detections = {10: [(3, 10, 10, 50, 50, 0.5), (3, 65, 65, 80, 80, 0.9)]}
    for metrics in both_metrics(coco, detections, [10]):
        assert metrics["AP"] == pytest.approx(1.0)


def test_only_the_evaluated_images_count():
    found = {10: OBJECTS[10]}
    for metrics in both_metrics(make_coco(), found, [10]):
        assert metrics["AP"] == pytest.approx(1.0)
    # Results of other images, left from a longer run, change nothing.
    everything = {**OBJECTS, 20: [(3, 0, 0, 5, 5, 0.99)]}
    for metrics in both_metrics(make_coco(), everything, [10]):
        assert metrics["AP"] == pytest.approx(1.0)
    for metrics in both_metrics(make_coco(), found, [10, 20, 30]):
        assert metrics["AP"] < 0.6


def test_an_image_id_outside_the_file_is_named():
    with pytest.raises(ValueError, match=r"99.*dataset\.valid_info"):
        coco_metrics(make_coco(), [], "bbox", [10, 99])


def test_mask_scores_rank_the_masks_and_box_scores_the_boxes():
    coco = make_coco({10: [(3, 10, 10, 50, 50)]})
    results = CocoResults(LABEL_MAP)
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[0, 10:50, 10:50] = masks[1, 60:90, 60:90] = True
    add(results, 10, [0, 0], [[10, 10, 50, 50], [60, 60, 90, 90]], [0.9, 0.8], masks, mask_scores=[0.3, 0.7])
    assert [entry["score"] for entry in results.lists()["bbox"]] == [0.9, 0.8]
    assert [entry["score"] for entry in results.lists()["segm"]] == [0.3, 0.7]
    metrics, _ = evaluate_results(coco, results.lists(), [10])
    assert metrics["bbox"]["AP"] == pytest.approx(1.0) and metrics["segm"]["AP"] == pytest.approx(0.5)


# ------------------------------------------------------------------------------------ unusual ground truth

def test_no_detection_at_all_is_zero_where_there_is_ground_truth():
    metrics, text = evaluate_results(make_coco(), results_of({}).lists(), list(OBJECTS))
    for values in metrics.values():
        assert values["AP"] == 0 and values["AR100"] == 0 and values["per_iou"] == [0.0] * 10
        assert values["APl"] == -1
    assert "|  0.00 |" in text


@pytest.mark.parametrize("detections", [{}, OBJECTS], ids=["nothing found", "something found"])
def test_a_file_without_annotations_measures_nothing(detections):
    coco = make_coco()
    info = coco_from({"images": coco.dataset["images"], "categories": coco.dataset["categories"]})
    metrics, text = evaluate_results(info, results_of(detections).lists(), list(OBJECTS))
    assert all(values[name] == -1 for values in metrics.values() for name in METRIC_NAMES)
    assert "None of the evaluated images has an annotation" in text and "   -   |" in text
    assert validation_figures(metrics)["mask"]["all"] is None


def test_an_annotation_with_id_zero_is_not_lost():
    coco = make_coco({10: [(3, 10, 10, 50, 50)]}, id=0)
    for metrics in both_metrics(coco, {10: [(3, 10, 10, 50, 50)]}, [10]):
        assert metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("missing", ["area", "iscrowd", "bbox"])
def test_hand_made_annotations_may_lack_derived_keys(missing):
    for metrics in both_metrics(make_coco(**{missing: None}), OBJECTS):
        assert metrics["AP"] == pytest.approx(1.0) and metrics["APm"] == pytest.approx(1.0)


@pytest.mark.parametrize("area", ["large", float("nan"), float("inf"), -5, [1600]])
def test_an_area_that_is_none_is_taken_for_missing(area):
    for metrics in both_metrics(make_coco(area=area), OBJECTS):
        assert metrics["AP"] == pytest.approx(1.0) and metrics["APm"] == pytest.approx(1.0)
    boxes, _ = both_metrics(make_coco(area=area, segmentation=None), OBJECTS)
    assert boxes["APm"] == pytest.approx(1.0)


@pytest.mark.parametrize("bbox", [[], [1, 2, 3], "text", [1, 2, 3, "4"], [1, 2, float("nan"), 4], 7, {"x": 1}])
def test_a_box_that_is_none_comes_from_the_outline_or_costs_the_annotation(bbox):
    for metrics in both_metrics(make_coco(bbox=bbox), OBJECTS):
        assert metrics["AP"] == pytest.approx(1.0)
    boxes, masks = both_metrics(make_coco(bbox=bbox, segmentation=None), OBJECTS)
    assert boxes["AP"] == masks["AP"] == -1


def test_numbers_of_numpy_are_numbers():
    given = {"bbox": [np.float32(value) for value in (10, 10, 40, 40)], "area": np.int64(7), "category_id": 3}
    assert completed_annotation(given, {}, "bbox") == {**given, "iscrowd": 0}


def test_an_annotation_without_an_outline_is_left_out_of_the_mask_figures_only():
    coco = make_coco()
    coco.dataset["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    boxes, masks = both_metrics(coco, {**OBJECTS, 10: OBJECTS[10][1:]})
    assert boxes["AR100"] == pytest.approx((2 / 3 + 1) / 2) and masks["AR100"] == pytest.approx(1.0)


def test_ground_truth_and_results_stay_as_they_were(capsys):
    coco, results = make_coco(), results_of(OBJECTS)
    before = copy.deepcopy((coco.dataset, results.lists()))
    capsys.readouterr()
    evaluate_results(coco, results.lists(), list(OBJECTS))
    assert (coco.dataset, results.lists()) == before
    assert capsys.readouterr() == ("", "")  # the text is returned, for eval.py to print


def test_a_network_without_masks_has_box_figures_only():
    results = CocoResults(LABEL_MAP, has_masks=False)
    add(results, 10, [], np.zeros((0, 4), int), [], None)
    add(results, 20, [0], [[20, 30, 60, 70]], [0.9], None, place=1)
    assert len(results.lists()["bbox"]) == 1 and list(results.lists()) == ["bbox"]
    metrics, text = evaluate_results(make_coco(), results.lists(), [20])
    assert list(metrics) == ["bbox"] and metrics["bbox"]["AP"] == pytest.approx(1.0)
    assert "mask" not in text


# ---------------------------------------------------------------------------------------- result records

def test_records_follow_the_coco_format():
    results = CocoResults(LABEL_MAP)
    masks = np.zeros((1, SIZE, SIZE), bool)
    masks[0, 3:9, 2:7] = True
    add(results, np.int64(20), np.array([1]), np.array([[2, 3, 7, 9]]), np.array([0.5], np.float32), masks)
    assert results.lists()["bbox"] == [{"image_id": 20, "category_id": 7, "bbox": [2.0, 3.0, 5.0, 6.0], "score": 0.5}]
    record = results.lists()["segm"][0]
    assert {key: record[key] for key in ("image_id", "category_id", "score")} == {
        "image_id": 20, "category_id": 7, "score": 0.5}
    assert np.array_equal(mask_utils.decode(record["segmentation"]), masks[0])
    json.dumps(results.lists())


def test_boxes_without_area_are_in_neither_file():
    flat = [(3, 10, 10, 10, 50), (3, 10, 20, 40, 20), (3, 120, 130, 100, 100)]  # the last: outside
    results = results_of({10: [*flat, (7, 1, 1, 2, 2)]})
    assert [entry["category_id"] for entry in results.lists()["bbox"]] == [7]
    assert [entry["category_id"] for entry in results.lists()["segm"]] == [7]


def test_order_is_that_of_images_and_detections():
    results = results_of({30: OBJECTS[30], 10: OBJECTS[10]})
    order = [(entry["image_id"], entry["category_id"]) for entry in results.lists()["bbox"]]
    assert order == [(30, 7), (30, 3), (10, 3), (10, 7)]


def test_an_unreadable_image_adds_nothing():
    results = results_of({10: OBJECTS[10]})
    before = results.lists()
    results.add(1, 20, None)
    assert results.lists() == before


def test_a_class_that_the_data_set_does_not_have_is_left_out():
    results = CocoResults(LABEL_MAP)
    add(results, 10, [2, 0], [[0, 0, 9, 9], [1, 2, 5, 8]], [0.75, 0.5], None)
    [found] = results.lists()["bbox"]
    assert found["bbox"] == [1, 2, 4, 6] and found["score"] == 0.5


def test_what_does_not_fit_together_is_named():
    with pytest.raises(ValueError, match="its own label"):
        CocoResults({1: 1, 2: 1})


def test_parts_of_several_processes_come_together_in_order():
    whole, first, second = results_of(OBJECTS), CocoResults(LABEL_MAP), CocoResults(LABEL_MAP)
    for place, (image_id, entries) in enumerate(OBJECTS.items()):
        add_boxes([second, first][place % 2], place, image_id, entries)
    first.merge([second.part(), first.part()])
    assert first.lists() == whole.lists() and first.of_place(1) == whole.of_place(1)


def test_the_way_back_from_results_to_instances():
    masks = np.random.RandomState(0).rand(2, SIZE, SIZE) > 0.5
    boxes = [[1, 2, 30, 40], [5, 6, 7, 90]]
    found = Instances([1, 0], [0.75, 0.5], boxes, masks, ["a", "b"], SIZE, SIZE, [0.25, 0.125])
    coco_format = CocoFormat(LABEL_MAP)
    back = coco_format.instances(coco_format(10, found), ["a", "b"], SIZE, SIZE)
    assert back.names == ["b", "a"] and back.boxes.tolist() == boxes
    assert back.scores.tolist() == [0.75, 0.5] and back.mask_scores.tolist() == [0.25, 0.125]
    np.testing.assert_array_equal(back.masks, masks)
    without = coco_format.instances((coco_format(10, found)[0], []), ["a", "b"], SIZE, SIZE)
    assert not without.has_masks and len(without) == 2 and len(coco_format.instances(([], []), ["a"], 5, 5)) == 0


# ------------------------------------------------------------------------------------------------- files

def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_metrics_file_holds_the_twelve_fractions(tmp_path):
    metrics, _ = evaluate_results(make_coco(), results_of(OBJECTS).lists(), list(OBJECTS))
    write_metrics(tmp_path / "results" / "metrics.json", metrics)
    written = json.loads((tmp_path / "results" / "metrics.json").read_text())
    keys = {kind: tuple(values) for kind, values in written.items()}
    assert keys == {"bbox": METRIC_NAMES, "segm": METRIC_NAMES}
    assert written["segm"]["AP"] == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------ tables

def test_text_holds_both_tables_and_the_compact_one():
    metrics, text = evaluate_results(make_coco(), results_of(OBJECTS).lists(), list(OBJECTS))
    assert text.count("Average Precision") == 12 and text.count("Average Recall") == 12
    assert compact_table(metrics) in text
    assert "square |100.00 |100.00 |" in class_table(metrics)


def test_compact_table_has_the_layout_of_the_original():
    fractions = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0123]
    rows = compact_table({"bbox": {"AP": 0.45123, "per_iou": fractions},
                          "segm": {"AP": -1.0, "per_iou": [-1.0] * 10}}).split("\n")
    rule = "-------+" * 12
    assert rows == [
        "", "       |  all  |" + "".join(f"  .{percent}  |" for percent in range(50, 100, 5)), rule,
        "   box | 45.12 | 90.00 | 80.00 | 70.00 | 60.00 | 50.00 | 40.00 | 30.00 | 20.00 | 10.00 |  1.23 |",
        "  mask |" + "   -   |" * 11, rule, "", ""]


def test_validation_figures_are_per_cent():
    metrics = {"bbox": {"AP": 0.123456, "per_iou": [0.1] * 10}, "segm": {"AP": 0.5, "per_iou": [0.5] * 10}}
    figures = validation_figures(metrics)
    assert figures["box"]["all"] == 12.35 and figures["mask"]["95"] == 50.0
    assert list(figures["box"]) == ["all", "50", "55", "60", "65", "70", "75", "80", "85", "90", "95"]


# -------------------------------------------------------------------------------------- demo and real data

def test_demo_annotations_as_predictions_score_one(demo_data):
    coco = COCO(str(demo_data / "annotations" / "instances_val.json"))
    results = CocoResults({category: index + 1 for index, category in enumerate(sorted(coco.cats))})
    classes = {category: index for index, category in enumerate(sorted(coco.cats))}
    for image_id in coco.imgs:
        found = [annotation for annotation in coco.imgToAnns[image_id] if not annotation["iscrowd"]]
        boxes = np.array([annotation["bbox"] for annotation in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        size = coco.imgs[image_id]["height"], coco.imgs[image_id]["width"]
        masks = np.array([coco.annToMask(annotation) for annotation in found], bool).reshape(-1, *size)
        labels = [classes[annotation["category_id"]] for annotation in found]
        scores = np.full(len(found), 0.9)
        results.add(image_id, image_id, Instances(labels, scores, np.rint(boxes).astype(int), masks, None, *size))
    metrics, _ = evaluate_results(coco, results.lists(), list(coco.imgs))
    assert metrics["segm"]["AP"] == pytest.approx(1.0) and metrics["bbox"]["AP50"] == pytest.approx(1.0)


@pytest.mark.parametrize("case", ["single", "rescored", "subset25"])
def test_figures_equal_those_measured_with_the_original(case, goldens_dir, coco_tiny):
    golden = json.loads((goldens_dir / "evalmap.json").read_text())
    results = {kind: json.loads((goldens_dir / f"evalmap_{name}_detections.json").read_text())
               for kind, name in (("bbox", "bbox"), ("segm", "mask"))}
    if case == "rescored":
        scores = json.loads((goldens_dir / "evalmap_rescored_mask_scores.json").read_text())
        results["segm"] = [{**entry, "score": score} for entry, score in zip(results["segm"], scores)]
    image_ids = golden["image_ids_used"][:25] if case == "subset25" else golden["image_ids_used"]
    coco = COCO(str(coco_tiny / "annotations" / "instances_val2017.json"))
    metrics, _ = evaluate_results(coco, results, image_ids)
    for iou_type in ("bbox", "segm"):
        expected = golden["results"][case][f"coco_{iou_type}"]
        assert [metrics[iou_type][name] for name in METRIC_NAMES] == expected["stats"]
        assert [100 * value for value in metrics[iou_type]["per_iou"]] == expected["ap_per_iou_50_95"]


@pytest.mark.parametrize("case", ["single", "rescored", "subset25"])
def test_table_equals_the_one_the_original_printed(case, goldens_dir):
    golden = json.loads((goldens_dir / "evalmap.json").read_text())["results"][case]
    metrics = {}
    for iou_type, row in (("bbox", "box"), ("segm", "mask")):
        fractions = [value / 100 for value in golden["rounded"][row].values()]
        metrics[iou_type] = {"AP": fractions[0], "per_iou": fractions[1:]}
    assert compact_table(metrics) == golden["printed"]
