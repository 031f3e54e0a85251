"""tools/check_dataset.py: what it prints and writes, its exit code, and pictures that do not fit their entries."""

import html
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from test_coco import REPO, box_annotation

from data.inspection import inspect_dataset
from tools.check_dataset import main
from tools.dataset_page import charts
from tools.dataset_page.charts import charts_png, coverage
from tools.dataset_page.page import page_html
from tools.dataset_page.pictures import picture_findings


def places(data, **more):
    values = {f"dataset.{part}_{kind}": data / place for part, split in (("train", "train"), ("valid", "val"))
              for kind, place in (("images", split), ("info", f"annotations/instances_{split}.json"))}
    return ["-o", *(f"{key}={value}" for key, value in {**values, **more}.items())]


def run(capsys, *arguments):
    """(exit code, what was printed)."""
    try:
        main([*map(str, arguments), "--no_bar"])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().out


@pytest.fixture
def small(tmp_path):
    """A folder of three pictures and its JSON with one object each, classes and files with odd names."""
    images = [{"id": number, "file_name": f"图 {number}.jpg", "width": 40, "height": 30} for number in (1, 2, 3)]
    annotations = [box_annotation(number, number, 5, 4, 5, 20, 15) for number in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "鱼 <b>&\"'"}]}
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (40, 30), "teal").save(tmp_path / "images" / image["file_name"])
    (tmp_path / "info.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def inspect(folder):
    return inspect_dataset(str(folder / "info.json"), str(folder / "images"), None, None, 550, "--info", "--images")


def edit(folder, change):
    content = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    change(content)
    (folder / "info.json").write_text(json.dumps(content), encoding="utf-8")


# The command


def test_the_demo_data_are_sound(demo_data, capsys):
    code, printed = run(capsys, "--config=yolact_demo", *places(demo_data), "--open_images")
    rows = [line.split() for line in printed.strip().splitlines()]
    assert code == 0 and "error:" not in printed
    assert rows[-3] == ["images", "objects", "crowds", "classes", "errors", "warnings", "notes"]
    content = json.loads((demo_data / "annotations" / "instances_train.json").read_text())
    crowds = sum(one["iscrowd"] for one in content["annotations"])
    assert rows[-2][:6] == ["training", "24", str(len(content["annotations"]) - crowds), str(crowds), "3", "0"]
    assert rows[-1][:2] == ["validation", "12"]


def test_errors_of_both_sets_end_in_exit_code_1(demo_data, tmp_path, capsys):
    code, printed = run(capsys, "--config=yolact_demo", *places(demo_data, **{
        "dataset.train_info": tmp_path / "gone.json", "dataset.valid_images": tmp_path / "gone"}))
    assert code == 1 and printed.count("  error: ") == 2
    assert "correct dataset.train_info" in printed and "correct dataset.valid_images" in printed


def test_a_file_of_its_own_has_its_own_classes(small, capsys):
    code, printed = run(capsys, f"--info={small / 'info.json'}", f"--images={small / 'images'}")
    assert code == 0 and "3 images, 3 objects of 1 classes\n" in printed
    edit(small, lambda content: content["categories"].clear())
    code, printed = run(capsys, f"--info={small / 'info.json'}", f"--images={small / 'images'}")
    assert code == 1 and "there are no 'categories'" in printed


def test_names_in_the_training_file(small, capsys):
    code, printed = run(capsys, *places(small, **{
        "dataset.class_names": None, "dataset.label_map": None, "dataset.train_info": small / "info.json",
        "dataset.train_images": small / "images", "dataset.valid_info": small / "info.json",
        "dataset.valid_images": small / "images"}))
    assert code == 0 and printed.count("3 objects of 1 classes") == 2
    assert "3 of 3 validation pictures are training pictures as well" in printed


def test_test_dev_has_no_annotations(small, capsys):
    edit(small, lambda content: content.pop("annotations") and content["images"][0].pop("width"))
    arguments = ["--dataset=coco2017_testdev_dataset", "-o", f"dataset.valid_info={small / 'info.json'}",
                 f"dataset.valid_images={small / 'images'}", "dataset.class_names=None"]
    code, printed = run(capsys, *arguments, f"--html={small / 'page.html'}", f"--png={small / 'charts.png'}")
    assert code == 0 and ["test", "3", "0", "0", "1", "0", "0", "0"] in map(str.split, printed.splitlines())
    assert "There are no objects." in (small / "page.html").read_text(encoding="utf-8")
    assert cv2.imread(str(small / "charts.png")).shape[2] == 3


@pytest.mark.parametrize("arguments", [["--info=a.json"], ["--images=a"],
                                       ["--info=a.json", "--images=a", "--dataset=coco2017_dataset"]])
def test_options_that_do_not_go_together(arguments, capsys):
    assert run(capsys, *arguments)[0] == 2


def test_mistakes_end_in_one_line(small, capsys):
    assert run(capsys, "--config=yolact_fihs")[0].startswith("check_dataset.py: error: unknown config 'yolact_fihs'")
    (small / "file").write_text("")
    code, _ = run(capsys, f"--info={small / 'info.json'}", f"--images={small / 'images'}",
                  f"--html={small / 'file' / 'page.html'}")
    assert code.startswith("check_dataset.py: error: ") and "\n" not in code


def test_it_is_a_command_that_needs_no_framework(small):
    code = "import sys, tools.check_dataset; assert not {'paddle', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
    done = subprocess.run([sys.executable, REPO / "tools" / "check_dataset.py", "--info", small / "info.json",
                           "--images", small / "images", "--open_images"], cwd=small, capture_output=True, text=True)
    assert done.returncode == 0 and "3 objects of 1 classes" in done.stdout and "Traceback" not in done.stderr


# Pictures


def test_sound_pictures(small):
    assert picture_findings(inspect(small), bar=False) == []


def told(folder):
    return [(finding.level, finding.count, finding.what.partition(" pictures ")[2][:24], finding.examples)
            for finding in picture_findings(inspect(folder), bar=False)]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder"])
def test_pictures_that_cannot_be_read(small, damage):
    path = small / "images" / "图 2.jpg"
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"cut": data[:-30], "empty": b"", "text": b"<html>not found</html>"}[damage])
    (level, count, words, examples), = told(small)
    assert (level, count, words) == ("warning", 1, "are cut off or no pictur") and examples[0].startswith("图 2.jpg")


def test_pictures_of_another_size(small):
    Image.new("RGB", (41, 30)).save(small / "images" / "图 1.jpg")
    assert told(small) == [("warning", 1, "have another size than '", ("图 1.jpg: 41 x 30, not 40 x 30",))]
    edit(small, lambda content: [image.pop("width") for image in content["images"]] and content.pop("annotations"))
    assert told(small) == []


@pytest.mark.parametrize("orientation, size, expected", [
    (6, (30, 40), [("warning", "are annotated as their E")]), (6, (40, 30), [("note", "have an EXIF orientation")]),
    (3, (40, 30), [("note", "have an EXIF orientation")]), (3, (30, 40), [("warning", "have another size than '")]),
    (1, (40, 30), [])])
def test_orientation_tags(small, orientation, size, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(small / "images" / "图 3.jpg", exif=exif)
    assert [(level, words) for level, _, words, _ in told(small)] == expected


# The page and the charts


def test_the_page_holds_everything_and_nothing_foreign_as_markup(small, capsys):
    edit(small, lambda content: content["annotations"][0].update(id="<script>", bbox=[4, 5, 0, 15]))
    edit(small, lambda content: content["images"][2].update(file_name="gone <i>.jpg"))
    folder = small / "<u>"
    (small / "images").rename(folder)
    code, _ = run(capsys, f"--info={small / 'info.json'}", f"--images={folder}", f"--html={small / 'page.html'}")
    page = (small / "page.html").read_text(encoding="utf-8")
    assert code == 0 and not any(markup in page for markup in ("<script", "<i>", "<u>", "<b>&", "http"))
    for text in ("<script>", "gone <i>.jpg", "<u>", "鱼 <b>&\"'", "an empty bbox"):
        assert html.escape(text) in page
    assert page.count('<span class="level warning">') == 2 and 'src="data:image/png;base64,iVBOR' in page


@pytest.mark.filterwarnings("error")
def test_pages_of_one_class_and_of_eighty_and_of_nothing(small, demo_data):
    one = inspect(small)
    edit(small, lambda content: content["categories"].extend(
        {"id": 100 + number, "name": f"class {number}"} for number in range(79)))
    eighty = inspect(small)
    nothing = inspect_dataset("gone.json", str(small), None, None, 550, "--info", "--images")
    for inspections in ({"data set": one}, {"training": eighty, "validation": one},
                        {"training": one, "validation": nothing}, {"training": nothing, "validation": one}):
        charts = charts_png(inspections, 550)
        assert cv2.imdecode(np.frombuffer(charts, np.uint8), cv2.IMREAD_COLOR).std() > 5
        page = page_html("title", inspections, charts, 550)
        assert page.count("<tr><td>") - page.count('<tr><td><span class="level') == max(
            len(inspection.class_names) for inspection in inspections.values())


def test_charts_show_what_differs(small):
    first = charts_png({"training": inspect(small)}, 550)
    assert charts_png({"training": inspect(small)}, 550) == first
    edit(small, lambda content: content["annotations"][0]["bbox"].__setitem__(2, 3))
    assert charts_png({"training": inspect(small)}, 550) != first


def test_coverage_counts_the_boxes_over_each_cell():
    boxes = np.array([[0, 0, 1, 1], [0.5, 0.25, 0.75, 0.5], [0.9, 0.9, 0.95, 1.0], [0.25, 0, 0.25, 0]])
    expected = np.full((4, 4), 0.25)
    expected[1, 2] += 0.25
    expected[3, 3] += 0.25
    np.testing.assert_allclose(coverage(boxes[:3], 4) * 0.75, expected)
    assert coverage(np.zeros((0, 4)), 4).tolist() == np.zeros((4, 4)).tolist()


def test_counts_under_ten_have_no_powers_at_the_ticks(small):
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    charts._draw_classes(axes, {"data set": inspect(small)}, {"data set": np.ones((3, 2))})
    figure.canvas.draw()
    assert [text.get_text() for text in axes.get_yticklabels(minor=True) if text.get_text()] == []
