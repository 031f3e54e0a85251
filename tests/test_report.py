"""The evaluation report: its figures on cases worked by hand, the files it writes, and the page in a browser."""

import contextlib
import html.parser
import io
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from utils import report, report_data
from utils.coco_results import coco_metrics

# pycocotools 2.0 compiled against numpy 1 says this under numpy 2 whenever it decodes a mask.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HOSTILE = "</script><script>alert(1)</script><!-- & \"quoted\" 'x' \u2028 ü"


def objects(classes, boxes, scores=None, crowd=None):
    """report_data.Objects compared by their boxes."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    scores = np.ones(len(classes)) if scores is None else np.array(scores, np.float64)
    crowd = np.zeros(len(classes), bool) if crowd is None else np.array(crowd, bool)
    return report_data.Objects(np.array(classes, np.int64), boxes, None, scores, crowd, boxes[:, 2] * boxes[:, 3])


def rle_of(mask):
    """Compressed RLE of a uint8 mask, as it stands in a results file."""
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def matched(detections, ground_truth, same_class=True):
    overlaps = report_data.overlaps_of(detections, ground_truth)
    return overlaps, report_data.match(overlaps, detections, ground_truth, same_class)


def coco_of(images, annotations, categories=((1, "cat"), (2, "dog"))):
    """COCO of image entries; annotations=None leaves the key out, as a file of test-dev does."""
    coco = COCO()
    coco.dataset = {"images": images, "categories": [{"id": key, "name": name} for key, name in categories]}
    if annotations is not None:
        coco.dataset["annotations"] = annotations
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


# --- figures worked by hand ---------------------------------------------------------------------------------------

def test_the_higher_score_takes_the_object_and_the_next_one_the_best_of_the_rest():
    ground_truth = objects([0, 0], [(0, 0, 10, 10), (0, 3, 10, 10)])
    detections = objects([0, 0, 0], [(0, 1, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10)], [0.9, 0.8, 0.7])
    overlaps, matches = matched(detections, ground_truth)
    assert overlaps[0] == pytest.approx([90 / 110, 80 / 120]) and overlaps[1] == pytest.approx([1, 70 / 130])
    assert matches.tolist() == [0, 1, report_data.UNMATCHED]


def test_class_counts_in_the_quality_and_not_in_the_confusions():
    ground_truth, detections = objects([0, 1], [(0, 0, 10, 10), (0, 0, 10, 6)]), objects([1], [(0, 0, 10, 10)])
    assert matched(detections, ground_truth, same_class=True)[1].tolist() == [1]
    assert matched(detections, ground_truth, same_class=False)[1].tolist() == [0]


def test_an_overlap_of_exactly_a_half_matches_and_less_does_not():
    ground_truth = objects([0], [(0, 0, 10, 10)])
    assert matched(objects([0], [(0, 0, 10, 5)]), ground_truth)[1].tolist() == [0]
    assert matched(objects([0], [(0, 0, 10, 4.9)]), ground_truth)[1].tolist() == [report_data.UNMATCHED]


def test_detections_in_a_crowd_are_ignored_and_the_crowd_itself_is_nothing_to_find():
    ground_truth = objects([0], [(0, 0, 100, 100)], crowd=[True])
    detections = objects([0, 0, 1], [(0, 0, 10, 10), (95, 0, 10, 10), (0, 0, 9, 9)])
    overlaps, matches = matched(detections, ground_truth)
    assert matches.tolist() == [report_data.IGNORED, report_data.IGNORED, report_data.UNMATCHED]
    assert report_data.image_quality(overlaps, matches, detections.scores, ground_truth.crowd) == (0, 0, 1, 0)
    any_class = matched(detections, ground_truth, same_class=False)[1]
    assert report_data.confusion_pairs(any_class, detections, ground_truth, 2) == []


def test_matches_do_not_depend_on_lower_scores():
    random = np.random.RandomState(0)
    boxes = np.hstack([random.uniform(0, 30, (52, 2)), random.uniform(10, 30, (52, 2))])
    ground_truth = objects(random.randint(0, 2, 12), boxes[:12], crowd=random.rand(12) < 0.2)
    classes, boxes = random.randint(0, 2, 40), boxes[12:]
    whole = matched(objects(classes, boxes), ground_truth)[1]
    assert (whole >= 0).sum() > 3
    for count in range(40):
        assert matched(objects(classes[:count], boxes[:count]), ground_truth)[1].tolist() == whole[:count].tolist()


def test_quality_is_the_panoptic_quality():
    ground_truth = objects([0, 1, 1], [(0, 0, 10, 10), (50, 0, 10, 10), (80, 0, 10, 10)])
    detections = objects([0, 1, 1, 1], [(0, 0, 10, 8), (50, 0, 10, 6), (20, 20, 5, 5), (80, 0, 10, 10)],
                         [0.9, 0.8, 0.3, 0.29])
    overlaps, matches = matched(detections, ground_truth)
    quality, *counts = report_data.image_quality(overlaps, matches, detections.scores, ground_truth.crowd)
    assert counts == [2, 1, 1] and quality == pytest.approx((0.8 + 0.6) / (2 + 0.5 + 0.5))


@pytest.mark.parametrize("classes, scores, expected", [
    ([], [], (None, 0, 0, 0)), ([0], [0.29], (None, 0, 0, 0)), ([0], [0.5], (0, 0, 1, 0))])
def test_quality_without_ground_truth(classes, scores, expected):
    ground_truth, detections = objects([], []), objects(classes, [(0, 0, 5, 5)] * len(classes), scores)
    overlaps, matches = matched(detections, ground_truth)
    assert report_data.image_quality(overlaps, matches, detections.scores, ground_truth.crowd) == expected


def test_confusions_hold_what_was_taken_missed_and_made_up():
    ground_truth = objects([0, 1, 1], [(0, 0, 10, 10), (50, 0, 10, 10), (80, 0, 10, 10)])
    detections = objects([0, 0, 1, 1], [(0, 0, 10, 10), (50, 0, 10, 10), (20, 20, 5, 5), (80, 0, 10, 10)],
                         [0.9, 0.8, 0.7, 0.2])
    matches = matched(detections, ground_truth, same_class=False)[1]
    assert report_data.confusion_pairs(matches, detections, ground_truth, 2) == [(0, 0), (1, 0), (2, 1), (1, 2)]


def test_sizes_fall_into_bins_that_part_where_coco_does():
    totals = report_data.Totals(1)
    sides = [1, 31.9, 32, 95.9, 96, 2000, 50]
    boxes = [(3000 * place, 0, side, side) for place, side in enumerate(sides)]
    ground_truth = objects([0] * 7, boxes, crowd=[0] * 6 + [1])
    detections = objects([0, 0, 0], ground_truth.boxes[[5, 2, 4]], [0.9, 0.8, 0.1])
    matches = matched(detections, ground_truth)[1]
    totals.add(detections, ground_truth, matches, [(0, 0), (0, 0)])
    by_edge = dict(zip(report_data.SIZE_EDGES, zip(totals.sizes.tolist(), totals.found.tolist())))
    assert {edge: pair for edge, pair in by_edge.items() if pair[0]} == {
        0: (1, 0), 24: (1, 0), 32: (1, 1), 64: (1, 0), 96: (1, 0), 384: (1, 1)}
    assert totals.objects.tolist() == [6] and totals.detections == 2 and totals.confusions == {(0, 0): 2}


def drawn(path, shape, scale):
    """A path of outline_path filled by the even-odd rule, as a mask of the original size."""
    polygons = []
    for x, y, steps in re.findall(r"M(\d+) (\d+)l?([-\d ]*)z", path):
        corners = np.array([int(x), int(y), *map(int, steps.split())]).reshape(-1, 2).cumsum(axis=0)
        polygons.append(np.rint(corners / scale - 0.5).astype(np.int32))
    filled = np.zeros(shape, np.uint8)
    cv2.fillPoly(filled, polygons, 1)
    return filled


@pytest.mark.parametrize("scale", [2.0, 10.0])
def test_outlines_keep_holes_and_parts(scale):
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (60, 60), 50, 1, -1)
    cv2.circle(mask, (60, 60), 25, 0, -1)
    mask[100:118, 130:155] = 1
    path = report_data.outline_path(rle_of(mask), (scale, scale))
    filled = drawn(path, mask.shape, scale)
    assert path.count("M") == 3 and filled[60, 60] == 0 and filled[110, 140] == 1
    assert (filled & mask).sum() / (filled | mask).sum() > 0.9
    assert len(path) < 700


def test_outlines_of_nothing_and_of_one_pixel():
    mask = np.zeros((2, 30, 40), np.uint8)
    mask[1, 7, 9] = 1
    empty, one = map(rle_of, mask)
    assert report_data.outline_path(empty, (10, 10)) == "" and report_data.outline_path(one, (10, 10)) == "M95 75z"


@pytest.mark.parametrize("size, expected", [
    ((640, 480), (400, 300)), ((100, 400), (100, 400)), ((300, 1200), (100, 400)), ((10000, 8), (400, 1))])
def test_thumbnails_fit_and_are_never_enlarged(size, expected):
    assert report_data.thumbnail_size(*size) == expected
    picture = np.full((size[1], size[0], 3), (10, 200, 90), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(report_data.base64.b64decode(report_data.thumbnail(picture)), np.uint8), 1)
    assert decoded.shape == (expected[1], expected[0], 3) and np.abs(decoded.astype(int) - (10, 200, 90)).max() < 5


def test_annotations_are_completed_or_left_out_as_cocoeval_does():
    square, line = [[0, 0, 10, 0, 10, 10, 0, 10]], [[0, 0, 10, 10]]
    annotations = [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": square},
                   {"id": 2, "image_id": 1, "category_id": 9, "segmentation": line, "bbox": [1, 2, 3, 4]},
                   {"id": 3, "image_id": 1, "category_id": 1, "segmentation": line}]
    coco = coco_of([{"id": 1, "width": 20, "height": 20}], annotations)
    classes = report_data.Classes({2: "dog"}, coco)
    assert classes.names == ["dog", "cat", "9"] and classes.index_of == {2: 0, 1: 1, 9: 2}
    with_masks = report_data.ground_truth_objects(coco, 1, classes, has_masks=True)
    assert with_masks.classes.tolist() == [0] and with_masks.areas.tolist() == [100]
    assert with_masks.boxes.tolist() == [[0, 0, 10, 10]]
    boxes_only = report_data.ground_truth_objects(coco, 1, classes, has_masks=False)
    assert boxes_only.classes.tolist() == [0, 2] and boxes_only.areas.tolist() == [100, 12]
    assert boxes_only.masks is None


def test_detections_are_ordered_and_masks_have_their_own_scores():
    classes = report_data.Classes({1: "cat"}, coco_of([], None, categories=[]))
    boxes = [{"category_id": 1, "bbox": [place, 0, 5, 5], "score": score}
             for place, score in enumerate((0.9, 0.5, 0.04))]
    masks = [{"category_id": 1, "segmentation": "rle", "score": score} for score in (0.2, 0.7, 0.05)]
    assert report_data.detected_objects(boxes, None, classes).boxes[:, 0].tolist() == [0, 1]
    found = report_data.detected_objects(boxes, masks, classes)
    assert found.scores.tolist() == [0.7, 0.2, 0.05] and found.boxes[:, 0].tolist() == [1, 0, 2]
    assert len(report_data.detected_objects([], [], classes).classes) == 0


# --- what is written -----------------------------------------------------------------------------------------------

class Run:
    """An evaluation of drawn pictures: the first ones again and again under other names.

    Every detection is an object's mask moved by a pixel, with a score that falls from object to object; every fifth
    image has no detections, and each third detection has the next class.
    """

    def __init__(self, data, images=60, boxes_only=False, has_gt=True):
        content = json.loads((data / "annotations" / "instances_val.json").read_text())
        self.pictures, self.results = {}, {}
        entries, annotations = [], []
        for number in range(images):
            source = content["images"][number % len(content["images"])]
            entries.append({**source, "id": number, "file_name": f"{number:03d}.jpg"})
            self.pictures[number] = str(data / "val" / source["file_name"])
            found = [{**annotation, "id": len(annotations) + place + 1, "image_id": number}
                     for place, annotation in enumerate(
                         annotation for annotation in content["annotations"] if annotation["image_id"] == source["id"])]
            annotations += found
            self.results[number] = self._results(found if number % 5 else [], boxes_only)
        categories = [(category["id"], category["name"]) for category in content["categories"]]
        self.coco = coco_of(entries, annotations if has_gt else None, [*categories, (99, "unseen")])
        self.names = dict([*categories, (99, "unseen")])
        self.ids = list(range(images))
        kinds = ["bbox"] if boxes_only else ["bbox", "segm"]
        self.metrics = {kind: coco_metrics(self.coco, self._all(place), kind, self.ids)
                        for place, kind in enumerate(kinds)} if has_gt else None

    def _all(self, place):
        return [result for pair in self.results.values() for result in pair[place]]

    @staticmethod
    def _results(annotations, boxes_only):
        boxes, masks = [], []
        for place, annotation in enumerate(annotations):
            moved = np.roll(mask_utils.decode(annotation["segmentation"]), 1, axis=1)
            rle = rle_of(moved)
            category = annotation["category_id"]
            common = {"image_id": annotation["image_id"], "score": 0.95 - 0.11 * place,
                      "category_id": category % 3 + 1 if place % 3 == 2 else category}
            boxes.append({**common, "bbox": mask_utils.toBbox(rle).tolist()})
            masks.append({**common, "segmentation": rle})
        return boxes, None if boxes_only else masks

    def write(self, folder, title="demo", read_image=None, names=None):
        read = read_image or (lambda image_id: cv2.imread(self.pictures[image_id]))
        return report.write_report(str(folder), title, names or self.names, self.coco, self.ids,
                                   self.results.__getitem__, read, self.metrics, bar=False)


class _PageReader(html.parser.HTMLParser):
    """Title, heading and the text of every script of a page."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.scripts, self._open = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._open = tag if tag in ("title", "h1", "script") else None
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def handle_endtag(self, tag):
        self._open = None


def read_page(folder):
    """(texts, data, featured records) of index.html."""
    page = _PageReader((folder / "index.html").read_text(encoding="utf-8"))
    assert [attributes.get("id") for attributes, _ in page.scripts] == [
        "report-data", "report-featured", *[None] * len(report._SCRIPTS)]
    return page.texts, json.loads(page.scripts[0][1]), json.loads(page.scripts[1][1])


def read_parts(folder):
    """(stamp, number, records) of every file in data/."""
    parts = []
    for path in sorted((folder / "data").iterdir()):
        stamp, number, records = re.fullmatch(r'reportPart\("(\w+)",(\d+),(.*)\);\n', path.read_text(), re.S).groups()
        assert path.name == f"part_{int(number):04d}.js"
        parts.append((stamp, int(number), json.loads(records)))
    return parts


@pytest.fixture(scope="module")
def run(demo_data):
    return Run(demo_data)


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert run.write(folder) == str(folder / "index.html")
    return folder


def test_the_images_are_in_parts_of_25_the_worst_first(run, written):
    texts, page, featured = read_page(written)
    parts = read_parts(written)
    assert texts == {"title": "demo", "h1": "demo"}
    assert [len(records) for _, _, records in parts] == [25, 25, 10]
    assert {stamp for stamp, _, _ in parts} == {page["stamp"]}
    records = [record for _, _, part in parts for record in part]
    assert sorted(record["id"] for record in records) == run.ids
    assert [record["name"] for record in records] == [entry[1] for entry in page["index"]]
    assert [record["id"] for record in records] == [entry[0] for entry in page["index"]]
    qualities = [entry[2] for entry in page["index"]]
    rated = [quality for quality in qualities if quality is not None]
    assert rated == sorted(rated) and rated[0] == 0 and rated[-1] > 0.5
    assert qualities[len(rated):] == [None] * (len(qualities) - len(rated))
    ranks = [*range(12), *range(len(rated) - 12, len(rated))]
    assert featured == {str(rank): records[rank] for rank in ranks}


def test_the_figures_are_those_of_cocoeval(run, written):
    page = read_page(written)[1]
    for kind in ("bbox", "segm"):
        figures, metrics = page["kinds"][kind], run.metrics[kind]
        assert figures["summary"]["AP"] == pytest.approx(metrics["AP"], abs=1e-5) and 0.2 < metrics["AP"] < 0.95
        assert figures["per_iou"] == pytest.approx(metrics["per_iou"], abs=1e-5)
        named = dict(zip(page["classes"], figures["classes"]))
        assert named.pop("unseen") is None and named == pytest.approx(metrics["per_class"], abs=1e-5)
        for place, average in enumerate(figures["classes"]):
            assert (figures["curves"][place] is None) == (average is None)
            if average is not None:
                area, thousandths = figures["curves"][place]["mean"]
                assert area == pytest.approx(average, abs=1e-5)
                assert sum(thousandths) / 101e3 == pytest.approx(average, abs=1e-3)
        for name in ("50", "75"):
            assert figures["mean_curves"][name][0] == pytest.approx(metrics[f"AP{name}"], abs=1e-4)
        for area, name in (("all", "AR100"), ("small", "ARs"), ("medium", "ARm"), ("large", "ARl")):
            expected = None if metrics[name] < 0 else pytest.approx(metrics[name], abs=1e-5)
            assert figures["recall"][area][1] == expected


def test_sums_over_the_images_agree(run, written):
    page = read_page(written)[1]
    real = [annotation for annotation in run.coco.anns.values() if not annotation["iscrowd"]]
    background = len(page["classes"])
    assert sum(page["class_objects"]) == sum(page["sizes"]["objects"]) == len(real)
    assert sum(number for actual, _, number in page["confusions"] if actual != background) == len(real)
    assert sum(entry[3] for entry in page["index"]) == sum(page["sizes"]["found"])
    assert sum(entry[3] + entry[5] for entry in page["index"]) == len(real)
    swapped = {actual * (background + 1) + predicted
               for actual, predicted, _ in page["confusions"] if actual != predicted}
    assert swapped == {code for entry in page["index"] for code in entry[7]} and swapped


def test_a_record_holds_what_is_drawn(run, written):
    record = next(record for _, _, part in read_parts(written) for record in part if record["id"] == 1)
    image = cv2.imread(run.pictures[1])
    assert record["full_size"] == [image.shape[1], image.shape[0]] and record["image"]
    factor = record["size"][0] * report_data.OUTLINE_UNIT / image.shape[1]
    annotations, (boxes, _) = run.coco.imgToAnns[1], run.results[1]
    assert [entry[2] for entry in record["objects"]] == [
        np.rint(np.array(annotation["bbox"]) * factor).tolist() for annotation in annotations]
    shown = [result for result in boxes if result["score"] >= 0.05]
    assert [entry[1] for entry in record["detections"]] == [round(result["score"], 4) for result in shown]
    for index, result in enumerate(shown[:2]):
        label, _, box, outline, match, iou = record["detections"][index]
        assert run.coco.cats[result["category_id"]]["name"] == read_page(written)[1]["classes"][label]
        assert box == np.rint(np.array(result["bbox"]) * factor).tolist() and outline.startswith("M")
        assert match < 0 or 0.5 <= iou <= 1


def test_names_and_titles_cannot_leave_their_place(demo_data, tmp_path):
    run = Run(demo_data, images=3)
    for number, entry in run.coco.imgs.items():
        entry["file_name"] = f"{number}{HOSTILE}.jpg"
    run.write(tmp_path, title=HOSTILE + "$title ${data}", names=dict.fromkeys(run.names, HOSTILE))
    texts, page, featured = read_page(tmp_path)
    assert texts["h1"] == texts["title"] == page["title"] == HOSTILE + "$title ${data}"
    assert page["classes"] == [HOSTILE] * len(run.names)
    assert {record["name"] for record in featured.values()} <= {f"{number}{HOSTILE}.jpg" for number in range(3)}
    assert "<script>alert" not in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<" not in (tmp_path / "data" / "part_0001.js").read_text()


def test_without_ground_truth_the_page_is_a_viewer(demo_data, tmp_path):
    run = Run(demo_data, images=30, has_gt=False)
    run.write(tmp_path)
    _, page, featured = read_page(tmp_path)
    assert not page["has_ground_truth"] and page["has_masks"] and page["kinds"] == {} and page["confusions"] == []
    assert [entry[0] for entry in page["index"]] == run.ids and {entry[2] for entry in page["index"]} == {None}
    assert list(featured) == [str(rank) for rank in range(24)]
    assert featured["1"]["objects"] == [] and featured["1"]["detections"][0][3]


def test_boxes_alone(demo_data, tmp_path):
    run = Run(demo_data, images=4, boxes_only=True)
    run.write(tmp_path)
    _, page, featured = read_page(tmp_path)
    assert list(page["kinds"]) == ["bbox"] and not page["has_masks"]
    shapes = [shape for record in featured.values() for side in ("objects", "detections") for shape in record[side]]
    assert shapes and all(shape[3] == "" for shape in shapes)
    assert max(entry[2] or 0 for entry in page["index"]) > 0.5


def test_unreadable_pictures_and_no_detections_at_all(demo_data, tmp_path):
    run = Run(demo_data, images=1)
    assert run.results[0] == ([], [])
    run.write(tmp_path, read_image=lambda image_id: None)
    _, page, featured = read_page(tmp_path)
    assert page["index"][0][2:5] == [0, 0, 0] and page["detections"] == 0
    assert featured["0"]["image"] is None and max(featured["0"]["size"]) <= 400 and featured["0"]["objects"]
    assert page["kinds"]["segm"]["summary"]["AP"] == 0


def test_a_picture_of_unknown_size_and_no_image_at_all(tmp_path):
    coco = coco_of([{"id": 7}], None)
    box = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 90, 40], "score": 0.5}
    report.write_report(str(tmp_path), "", {1: "cat"}, coco, [7], lambda _: ([box], None), lambda _: None, {},
                        bar=False)
    assert read_page(tmp_path)[2]["0"]["full_size"] == [100, 50]
    report.write_report(str(tmp_path), "", {1: "cat"}, coco, [], None, None, None, bar=False)
    assert read_page(tmp_path)[1]["index"] == [] and list((tmp_path / "data").iterdir()) == []


def test_a_new_report_replaces_the_old_one_and_nothing_else(demo_data, run, tmp_path):
    for name in ("part_0001.txt", "config.py", "part_1.js"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text("mine")
    run.write(tmp_path)
    Run(demo_data, images=2).write(tmp_path)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        "config.py", "part_0001.js", "part_0001.txt", "part_1.js"}
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "data"}


@pytest.mark.parametrize("fault", ["reading", "writing"])
def test_a_report_that_fails_leaves_the_old_one(demo_data, run, tmp_path, fault, monkeypatch):
    run.write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def failing(*_):
        raise KeyboardInterrupt

    other = Run(demo_data, images=30)
    if fault == "writing":
        monkeypatch.setattr(report, "_page", failing)
    with pytest.raises(KeyboardInterrupt):
        other.write(tmp_path, read_image=failing if fault == "reading" else None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- the page in a browser -------------------------------------------------------------------------------------------

BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                   "--disable-background-networking", "--disable-component-update"]
DRAWN = "[...document.querySelectorAll('.card canvas')].slice(0, 8).map((canvas) => canvas.toDataURL())"


@pytest.fixture(scope="module")
def browser():
    """Chromium with a profile of its own; playwright only drives it."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium to look at the report with; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="requirements-dev.txt is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, headless=True, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens the report in a folder; at the end no error may be in the console and nothing been asked of a network."""
    faults, contexts = [], []

    def open_folder(folder, width=1440, height=900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
        page.goto((folder / "index.html").as_uri())
        page.set_default_timeout(20000)
        return page

    yield open_folder
    for context in contexts:
        context.close()
    assert faults == []


def wait_for_frame(page):
    """Until what was asked for has been drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn_pixels(page):
    """The first canvases as PNG."""
    wait_for_frame(page)
    return page.evaluate(DRAWN)


def show_images(page):
    page.locator("#images").evaluate("(section) => section.scrollIntoView()")
    page.wait_for_selector(".card canvas")
    page.wait_for_function("[...nearCards].every((card) => card.pair)")


def set_threshold(page, value):
    page.locator("#threshold").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", value)
    wait_for_frame(page)


def test_the_slider_and_the_switches_change_what_is_drawn(written, open_page):
    page = open_page(written)
    page.select_option("#order", "best")
    show_images(page)
    pictures, feet = [drawn_pixels(page)], page.locator(".card-foot").all_inner_texts()
    set_threshold(page, 0.9)
    pictures.append(drawn_pixels(page))
    assert page.locator(".card-foot").all_inner_texts() != feet
    set_threshold(page, 1)
    assert " 0 detections: 0 found" in page.locator(".card-foot").first.inner_text()
    set_threshold(page, 0.3)
    assert drawn_pixels(page) == pictures[0] and page.locator(".card-foot").all_inner_texts() == feet
    for name in ("masks", "boxes", "labels"):
        page.click(f"#show-{name}")
        pictures.append(drawn_pixels(page))
    assert all(one != other for place, one in enumerate(pictures) for other in pictures[:place])
    page.click("#show-masks")
    page.click("#class-switches summary")
    page.click("#no-classes")
    set_threshold(page, 0.05)
    assert drawn_pixels(page) == pictures[-1] and page.locator(".card-foot").first.inner_text().startswith("0 objects")
    page.locator("#class-boxes input").first.click()
    assert drawn_pixels(page) != pictures[-1] and "(1 of" in page.locator("#class-switch-count").inner_text()


def test_classes_are_sorted(run, written, open_page):
    page = open_page(written)

    def values():
        return page.locator("#class-bars .value").all_inner_texts()

    for kind in ("segm", "bbox"):
        page.select_option("#class-kind", kind)
        expected = sorted(run.metrics[kind]["per_class"].values(), reverse=True)
        page.select_option("#class-order", "high")
        assert values() == [f"{100 * value:.1f}" for value in expected] + ["-"]
        page.select_option("#class-order", "low")
        assert values() == [f"{100 * value:.1f}" for value in expected[::-1]] + ["-"]
    page.select_option("#class-order", "name")
    assert page.locator("#class-bars button").all_inner_texts() == [*sorted(run.metrics["bbox"]["per_class"]), "unseen"]


def test_curves_and_tables(run, written, open_page):
    page = open_page(written)
    assert page.locator(".tile b").first.inner_text() == f"{100 * run.metrics['segm']['AP']:.1f}"
    assert page.locator("#summary-table tbody tr").count() == 12 and page.locator("#iou-table tbody tr").count() == 10
    assert page.locator("#curve-plots svg").count() == 2 and page.locator("#curve-plots polyline").count() == 6
    name = min(run.metrics["segm"]["per_class"])
    page.select_option("#curve-class", label=name)
    assert page.locator("#curve-plots polyline").count() == 8
    legend = page.locator("#curve-plots svg").first.text_content()
    assert f"AP {100 * run.metrics['segm']['per_class'][name]:.1f}" in legend


def test_filters_and_confusions_choose_images(written, open_page):
    page, data = open_page(written), read_page(written)[1]

    def shown():
        return int(page.locator("#match-count").inner_text().split()[0])

    assert shown() == 60
    page.fill("#name-filter", "05")
    assert shown() == 11 and page.locator(".card").count() == 11
    page.locator("#confusion-lists button").first.click()
    background = len(data["classes"])
    code = max(((number, -actual, -predicted) for actual, predicted, number in data["confusions"]
                if actual != predicted and background not in (actual, predicted)))
    wanted = -code[1] * (background + 1) - code[2]
    assert shown() == sum(wanted in entry[7] for entry in data["index"]) > 0
    page.click("#clear-filters")
    assert shown() == 60
    page.select_option("#class-filter", "0")
    assert shown() == sum(0 in entry[6] for entry in data["index"])
    page.focus("#matrix")
    for key in ("ArrowRight", "Enter"):
        page.keyboard.press(key)
    counts = {(actual, predicted): number for actual, predicted, number in data["confusions"]}
    assert f"predicted as {data['classes'][0]}: {counts[0, 0]} " in page.locator("#matrix-cell").inner_text()


def test_parts_are_loaded_as_one_scrolls(written, open_page):
    page = open_page(written)
    loaded = []
    page.on("request", lambda request: loaded.append(request.url.rpartition("/")[2]))
    show_images(page)
    assert page.locator(".card").count() < 60 and not [name for name in loaded if name.startswith("part_")]
    for _ in range(60):
        page.evaluate("window.scrollBy(0, 600)")
        page.wait_for_timeout(30)
    page.wait_for_function("document.querySelectorAll('.card').length === 60")
    page.wait_for_function("document.getElementById('end-of-cards').textContent === '60 images'")
    featured = {int(rank) for rank in read_page(written)[2]}
    wanted = {f"part_{rank // 25 + 1:04d}.js" for rank in range(60) if rank not in featured}
    assert sorted(name for name in loaded if name.startswith("part_")) == sorted(wanted) and len(wanted) > 1
    page.wait_for_function("document.querySelector('.card:last-child canvas') !== null")
    assert page.locator(".card canvas").count() < 60, "canvases far from the screen are given back"


@pytest.mark.parametrize("spoil, message", [
    (lambda part: part.unlink(), "not beside this page"),
    (lambda part: part.write_text('reportPart("0",1,[]);'), "belongs to another report")])
def test_a_page_without_its_data_says_so(written, browser, tmp_path, spoil, message):
    shutil.copytree(written, tmp_path / "copy")
    spoil(tmp_path / "copy" / "data" / "part_0001.js")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((tmp_path / "copy" / "index.html").as_uri())
    page.fill("#name-filter", read_page(written)[1]["index"][15][1])
    page.locator("#images").evaluate("(section) => section.scrollIntoView()")
    page.wait_for_function("(text) => document.querySelector('.card').textContent.includes(text)", arg=message)
    page.close()


def wait_for_name(page, name):
    """Until the enlarged view shows the image of that name; it is loaded first."""
    page.wait_for_function("name => document.getElementById('viewer-name').innerText === name", arg=name)


def test_an_image_is_enlarged_and_the_keys_go_on(written, open_page):
    page, names = open_page(written), [entry[1] for entry in read_page(written)[1]["index"]]
    show_images(page)
    page.locator(".card .pair").nth(1).click()
    page.wait_for_selector("#viewer canvas")
    wait_for_name(page, names[1])
    for step, place in ((1, 2), (-1, 1), (-1, 0), (-1, 0)):
        page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
        wait_for_name(page, names[place])
    page.keyboard.press("ArrowRight")
    page.click("#viewer-previous")  # is disabled now, with the focus on it
    page.keyboard.press("ArrowRight")
    wait_for_name(page, names[1])
    assert page.locator("#viewer #threshold").is_visible()
    page.wait_for_selector("#viewer table")
    page.keyboard.press("Escape")
    page.wait_for_selector("#images #threshold")  # the dialog tells that it is closed a moment later
    assert not page.locator("#viewer").is_visible()


@pytest.mark.parametrize("width, height", [(1440, 900), (390, 844)])
def test_nothing_is_wider_than_the_screen(written, open_page, width, height):
    page = open_page(written, width, height)
    show_images(page)
    too_wide = "document.documentElement.scrollWidth > window.innerWidth"
    assert not page.evaluate(too_wide)
    page.click("#class-switches summary")
    assert not page.evaluate(too_wide)
    panel = page.locator(".popup").bounding_box()
    assert panel["x"] >= 0 and panel["x"] + panel["width"] <= width
    page.locator("#images h2").click()
    page.locator(".card .pair").first.click()
    page.wait_for_selector("#viewer canvas")
    assert page.evaluate("(dialog => dialog.scrollWidth <= dialog.clientWidth)(document.getElementById('viewer'))")


@pytest.mark.parametrize("options", [{"has_gt": False}, {"boxes_only": True}, {"images": 1}], ids=str)
def test_ordinary_extremes_open_without_an_error(demo_data, open_page, tmp_path, options):
    run = Run(demo_data, **{"images": 4, **options})
    for entry in run.coco.imgs.values():
        entry["file_name"] = HOSTILE
    run.write(tmp_path, title=HOSTILE, names=dict.fromkeys(run.names, HOSTILE), read_image=lambda image_id: None)
    page = open_page(tmp_path, 390, 844)
    page.locator("#images").evaluate("(section) => section.scrollIntoView()")
    page.wait_for_selector(".card canvas")
    assert page.locator("h1").inner_text().startswith("</script>")
    assert "cannot be read" in page.locator(".card").first.inner_text()
    assert page.locator("#scores").is_visible() == options.get("has_gt", True)
    assert page.locator("#masks-switch").is_visible() != options.get("boxes_only", False)
    assert not page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
