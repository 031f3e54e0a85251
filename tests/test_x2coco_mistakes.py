"""tools/x2coco.py: what users get wrong in names of classes, in options, and by running it twice."""

import pytest
from converted import all_of, box_mask, convert, corners, read, same, save_picture
from test_x2coco import failure, many_pictures, shape, write_labelme
from test_x2coco_formats import write_yolo, yolo_line

from tools import anchor_cluster, browse, check_dataset, make_example_data, x2coco


def yolo_set(folder, yaml=None, number=0, text="utf-8"):
    for name in ("a", "b"):
        write_yolo(folder, name, [yolo_line(number, 3, 4, 20, 15)])
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml, encoding=text)


@pytest.mark.parametrize(("yaml", "words"), [
    ("names: [cat, cat]", "one that is empty, or stands twice (cat)"),
    ("names: ['', cat]", "one that is empty, or stands twice"),
    ("names: {0: cat, 999999999: dog}", "has no usable 'names'"),
    ("names: {-1: cat}", "has no usable 'names'"),
    ("names: cat", "has no usable 'names'"),
])
def test_unusable_names_in_a_yaml_file(tmp_path, capsys, yaml, words):
    pytest.importorskip("yaml")
    yolo_set(tmp_path / "in", yaml)
    text = failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")
    assert words in text and "--classes" in text and not (tmp_path / "out").exists()


def test_names_in_a_yaml_file_are_what_is_written_there(tmp_path):
    pytest.importorskip("yaml")
    yolo_set(tmp_path / "in", "names: [no, 007, null, 1.0]\n")
    _, contents = convert(tmp_path / "in", tmp_path / "out")
    assert [entry["name"] for entry in contents["val"]["categories"]] == ["no", "007", "null", "1.0"]


def test_files_of_names_that_are_no_utf_8(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_bytes("raie bouclée\n".encode("latin-1"))
    many_pictures(tmp_path / "labelme", "ab")
    yolo_set(tmp_path / "yolo")
    (tmp_path / "yolo" / "classes.txt").write_bytes(names.read_bytes())
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    (tmp_path / "voc" / "SegmentationObject").mkdir()
    (tmp_path / "voc" / "class_names.txt").write_bytes(names.read_bytes())
    for folder, *options in (("labelme", f"--classes={names}"), ("yolo",), ("voc",)):
        text = failure(capsys, f"--annotations={tmp_path / folder}", f"--out={tmp_path / 'out'}", *options)
        assert "is no text in UTF-8; save it as that" in text


def test_no_object_of_the_given_classes(tmp_path, capsys):
    many_pictures(tmp_path / "in", "ab")
    text = failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--classes=dog,eel",
                   "--skip_unknown")
    assert "no object is left: none is of the classes dog, eel; the annotations have cat; correct --classes" in text
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file_is_told_before_anything_is_read(tmp_path, monkeypatch, capsys):
    many_pictures(tmp_path / "in", "ab")
    (tmp_path / "out").write_text("")
    monkeypatch.setattr(x2coco, "read_all", None)
    assert "out is no folder; give another --out" in failure(
        capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")


def test_labels_that_are_no_text(tmp_path, capsys):
    write_labelme(tmp_path / "in", "a", [shape(label, corners(1, 1, 9, 9)) for label in (None, ["cat"], {}, 7)])
    many_pictures(tmp_path / "in", "b")
    found, _ = convert(tmp_path / "in", tmp_path / "out")
    same(all_of(found)["a.jpg"], ("7", box_mask(1, 1, 9, 9)))
    assert "3  a shape without usable label or points (a.json)" in capsys.readouterr().out


def test_what_the_command_wrote_is_no_picture_of_the_data_set(tmp_path, capsys):
    """It is found where pictures without annotations count, and the command runs in the same folder again."""
    folder = tmp_path / "in"
    for name in ("a", "b", "x_preview"):
        save_picture(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(yolo_line(0, 3, 4, 20, 15))
    for run in ("first", "second"):
        x2coco.main([f"--annotations={folder}", f"--out={folder}", "--format=yolo", "--classes=cat", f"--name={run}"])
        found, _ = read(folder, folder, run)
        assert set(all_of(found)) == {"a.png", "b.png", "x_preview.png"}
    many_pictures(tmp_path / "labelme", "ab")
    for _ in range(2):
        capsys.readouterr()
        convert(tmp_path / "labelme", tmp_path / "labelme")
    assert "a picture without a labelme file" not in capsys.readouterr().out


def test_texts_about_the_whole_data_set_are_no_annotations(tmp_path, capsys):
    yolo_set(tmp_path / "in")
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        (tmp_path / "in" / name).write_text("exported")
    convert(tmp_path / "in", tmp_path / "out", "--format=yolo", "--classes=cat")
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(("module", "step"), [(x2coco, "run"), (check_dataset, "run"), (anchor_cluster, "run"),
                                              (browse, "run"), (make_example_data, "make_example_data")])
def test_ctrl_c_ends_without_a_traceback(tmp_path, monkeypatch, module, step):
    def stop(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(module, step, stop)
    options = {x2coco: ["--annotations=in", "--out=out"]}.get(module, [])
    try:
        code = module.main(options)
    except SystemExit as exit_info:
        code = exit_info.code
    assert code == 130
