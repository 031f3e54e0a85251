"""tools/x2coco.py: labelme files, and what all formats share (split, classes, files, errors)."""
import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from converted import all_of, box_mask, check_figures, convert, corners, same, save_picture
from PIL import Image

from tools import x2coco


def shape(label, points, kind="polygon", group=None, **more):
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def box(label, *edges, **more):
    return shape(label, corners(*edges), **more)


def write_labelme(folder, name, shapes, picture=None, size=(40, 30), encoding="utf-8", **more):
    """<name>.json and, unless `picture` names another, <name>.jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    if picture is None:
        picture = f"{name}.jpg"
        save_picture(folder / picture)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture, "imageData": None,
               "imageHeight": size[1], "imageWidth": size[0], **more}
    (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)


def converted_shapes(tmp_path, shapes):
    """The objects that become of the shapes of one picture; another one makes the split possible."""
    write_labelme(tmp_path / "in", "a", shapes)
    write_labelme(tmp_path / "in", "b", [box("cat", 0, 0, 5, 5)])
    found, contents = convert(tmp_path / "in", tmp_path / "out")
    return all_of(found)["a.jpg"], contents


def failure(capsys, *arguments):
    """The one line of a command that fails."""
    with pytest.raises(SystemExit) as exit_info:
        x2coco.main(list(map(str, arguments)))
    text = str(exit_info.value)
    assert text.startswith("x2coco.py: error: ") and "\n" not in text
    return text


def as_base64(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_polygon_and_rectangle_cover_the_pixels_meant(tmp_path):
    objects, contents = converted_shapes(tmp_path, [
        box("cat", 3, 4, 20, 15), shape("dog", [[30, 25], [22, 10]], "rectangle"),
        shape("dog", [[0, 0], [2, 0], [2, 2], [0, 2]], None)])
    same(objects, ("cat", box_mask(3, 4, 20, 15)), ("dog", box_mask(22, 10, 30, 25)), ("dog", box_mask(0, 0, 2, 2)))
    assert [category["name"] for category in contents["train"]["categories"]] == ["cat", "dog"]
    entries = [entry for content in contents.values() for entry in content["annotations"]]
    assert all(isinstance(entry["segmentation"], list) for entry in entries), "simple outlines stay polygons"


def test_slanted_polygon_against_pixel_centres(tmp_path):
    objects, _ = converted_shapes(tmp_path, [shape("cat", [[2, 3], [37.5, 9], [11, 28.25]])])
    y, x = np.mgrid[:30, :40] + 0.5
    sides = [(37.5 - 2) * (y - 3) - (9 - 3) * (x - 2), (11 - 37.5) * (y - 9) - (28.25 - 9) * (x - 37.5),
             (2 - 11) * (y - 28.25) - (3 - 28.25) * (x - 11)]
    inside = np.all([side > 0 for side in sides], axis=0)
    (name, mask), = objects
    assert name == "cat" and (mask ^ inside).sum() <= 0.03 * inside.sum()  # pixels that the edge runs through


def test_circle(tmp_path):
    objects, _ = converted_shapes(tmp_path, [shape("cat", [[20, 15], [20, 3]], "circle")])
    y, x = np.mgrid[:30, :40] + 0.5
    inside = np.hypot(x - 20, y - 15) < 12
    (_, mask), = objects
    assert (mask ^ inside).sum() <= 0.02 * inside.sum()


def test_drawn_mask_is_exact_and_clipped(tmp_path):
    pixels = np.random.default_rng(1).random((12, 9)) < 0.6
    expected, cut = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    expected[5:17, 7:16] = pixels
    cut[22:, :6] = pixels[:8, 3:]
    objects, _ = converted_shapes(tmp_path, [
        shape("cat", [[7, 5], [15, 16]], "mask", mask=as_base64(pixels)),
        shape("cat", [[-3, 22], [5, 33]], "mask", mask=as_base64(pixels))])
    same(objects, ("cat", expected), ("cat", cut))


def test_groups_are_one_object_and_inner_parts_are_holes(tmp_path):
    pixels = np.ones((4, 4), bool)
    objects, _ = converted_shapes(tmp_path, [
        box("cat", 0, 0, 5, 5, group=1), box("cat", 10, 0, 15, 5, group=1),  # two parts
        box("dog", 0, 0, 5, 5, group=1),  # another label: another object
        box("cow", 4, 12, 8, 16, group=2), box("cow", 0, 8, 20, 28, group=2),  # the hole stands first
        box("cow", 10, 10, 18, 26, group=2), box("cow", 12, 12, 16, 20, group=2),  # an island in a hole
        box("hen", 30, 0, 36, 6, group=3), box("hen", 33, 3, 39, 9, group=3),  # overlapping: no hole
        box("owl", 22, 10, 32, 20, group=4), shape("owl", [[24, 12], [27, 15]], "mask", 4, mask=as_base64(pixels)),
        box("owl", 0, 0, 2, 2), box("owl", 0, 0, 2, 2)])  # no group: two objects
    cow = box_mask(0, 8, 20, 28) & ~box_mask(4, 12, 8, 16) & ~box_mask(10, 10, 18, 26) | box_mask(12, 12, 16, 20)
    same(objects, ("cat", box_mask(0, 0, 5, 5) | box_mask(10, 0, 15, 5)), ("dog", box_mask(0, 0, 5, 5)), ("cow", cow),
         ("hen", box_mask(30, 0, 36, 6) | box_mask(33, 3, 39, 9)),
         ("owl", box_mask(22, 10, 32, 20) & ~box_mask(24, 12, 28, 16)), *[("owl", box_mask(0, 0, 2, 2))] * 2)


def test_what_has_no_area_is_left_out_and_counted(tmp_path, capsys):
    objects, _ = converted_shapes(tmp_path, [
        box("cat", 1, 1, 4, 4), shape("cat", [[3, 3]], "point"), shape("cat", [[3, 3], [9, 9]], "line"),
        shape("cat", [[3, 3], [9, 9]]), shape("cat", [[3, 3], [9, 3], [15, 3]]), shape("cat", [[5, 5], [5, 9], [5, 7]]),
        shape("cat", [[3, 3], [9, "x"], [1, 1]]), shape("cat", [[3, 3], [float("nan"), 1], [1, 1]]), {"label": "cat"},
        shape("cat", corners(1, 1, 10 ** 9, 9)), box("cat", 50, 40, 60, 50), box("__ignore__", 1, 1, 9, 9), 7,
        shape("cat", [[7, 5], [15, 16]], "mask", mask="AAAA"), shape("cat", [[1, 2, 3], [4]], "circle")])
    same(objects, ("cat", box_mask(1, 1, 4, 4)))
    text = capsys.readouterr().out
    for line in ("1  a shape of the type point, which has no area (a.json)",
                 "1  a shape of the type line, which has no area (a.json)",
                 "1  an outline of fewer than three points (a.json)",
                 "2  an outline that is no list of points x, y (a.json)",
                 "1  an object without a pixel in the picture (a.jpg)", "2  an outline around nothing (a.json)",
                 "3  a shape without usable label or points (a.json)",
                 "1  an outline further than 10 times the picture's size away from it (a.json)",
                 "1  a shape with the label '__ignore__' (a.json)",
                 "1  a shape of the type mask that is damaged (a.json)"):
        assert f"{line}\n" in text, f"{line}\n\nis not in\n\n{text}"


def test_what_leaves_the_picture_is_clipped(tmp_path):
    objects, _ = converted_shapes(tmp_path, [
        box("cat", -9, -3, 7, 9), box("cat", 35, 20, 60, 31), shape("dog", [[-30, 15], [20, -35], [70, 15], [20, 65]])])
    y, x = np.mgrid[:30, :40] + 0.5
    same(objects[:2], ("cat", box_mask(0, 0, 7, 9)), ("cat", box_mask(35, 20, 40, 30)))
    # Its corners are outside and its middle covers all: corners moved onto the border would cut it to a rhombus.
    same(objects[2:], ("dog", np.abs(x - 20) + np.abs(y - 15) < 50))


def test_names_as_other_systems_write_them(tmp_path):
    folder = tmp_path / "Fische 鱼"
    write_labelme(folder, "Forelle bl\u00e4u 1", [box("Forelle (blau) 鱼", 1, 1, 9, 9)], encoding="utf-8-sig")
    save_picture(folder / "bilder" / "a b.jpg")
    write_labelme(folder / "json", "x", [box("cat", 1, 1, 5, 5)], picture="..\\bilder\\a b.jpg")
    save_picture(folder / "bilder" / "u\u0308.png")  # as macOS writes it
    write_labelme(folder, "y", [], picture="C:\\Users\\me\\\u00fc.png")  # only the bare name is there
    found, contents = convert(folder, tmp_path / "aus gabe")
    same(all_of(found)["Forelle bl\u00e4u 1.jpg"], ("Forelle (blau) 鱼", box_mask(1, 1, 9, 9)))
    same(all_of(found)["bilder/a b.jpg"], ("cat", box_mask(1, 1, 5, 5)))
    assert all_of(found)["bilder/u\u0308.png"] == [], "no shapes: a picture without objects"


def test_pictures_in_a_folder_of_their_own(tmp_path):
    for name in ("a", "b"):
        save_picture(tmp_path / "pictures" / f"{name}.jpg")
        write_labelme(tmp_path / "json", name, [box("cat", 1, 1, 5, 5)], picture=f"{name}.jpg")
        write_labelme(tmp_path / "beside" / "json", name, [box("cat", 1, 1, 5, 5)], f"../../pictures/{name}.jpg")
    found, _ = convert(tmp_path / "json", tmp_path / "out", f"--images={tmp_path / 'pictures'}")
    assert set(all_of(found)) == {"a.jpg", "b.jpg"}
    x2coco.main([f"--annotations={tmp_path / 'beside'}", f"--out={tmp_path / 'out2'}"])
    content = json.loads((tmp_path / "out2" / "instances_train.json").read_text())
    assert content["images"][0]["file_name"] in ("pictures/a.jpg", "pictures/b.jpg"), "from the folder of both"


def test_single_bad_files_cost_themselves_only(tmp_path, capsys):
    folder = tmp_path / "in"
    for name in "abc":
        write_labelme(folder, name, [box("cat", 1, 1, 9, 9)])
    (folder / "cut.json").write_text((folder / "a.json").read_text()[:-9])
    (folder / "other.json").write_text('{"images": []}')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    write_labelme(folder, "gone", [], picture="gone.jpg")
    write_labelme(folder, "again", [box("dog", 1, 1, 9, 9)], picture="b.jpg")
    write_labelme(folder, "size", [box("dog", 1, 1, 9, 9)], size=(41, 30))
    write_labelme(folder, "nopic", [box("dog", 1, 1, 9, 9)])
    (folder / "nopic.jpg").write_bytes(b"no picture")
    save_picture(folder / "plain.jpg")
    save_picture(folder / "twice" / "two.jpg")
    save_picture(folder / "thrice" / "two.jpg")
    write_labelme(folder, "which", [], picture="two.jpg")
    found, _ = convert(folder, tmp_path / "out")
    assert set(all_of(found)) == {"a.jpg", "c.jpg", "b.jpg"}
    text = capsys.readouterr().out
    for line in ("3  a JSON file that is damaged (bytes.json, cut.json, deep.json)",
                 "1  a JSON file that is not labelme's (no shapes, or no imagePath) (other.json)",
                 "1  an annotation whose picture is missing (gone.json)",
                 "1  a second annotation of the same picture (b.json)",
                 "1  an annotation for another size than the picture's (size.json)",
                 "1  a picture that cannot be read (nopic.json)",
                 "1  an annotation that several pictures have the name of (which.json)",
                 "3  a picture without a labelme file (plain.jpg, thrice/two.jpg, twice/two.jpg)"):
        assert f"{line}\n" in text, f"{line}\n\nis not in\n\n{text}"


def test_unknown_classes(tmp_path, capsys):
    folder = tmp_path / "in"
    write_labelme(folder, "a", [box("cat", 1, 1, 9, 9), box("dog", 1, 1, 5, 5), box("eel", 1, 1, 5, 5)])
    write_labelme(folder, "b", [box("dog", 1, 1, 5, 5)])
    text = failure(capsys, f"--annotations={folder}", f"--out={tmp_path / 'out'}", "--classes=cow,cat")
    assert "2 classes of objects are not among the 2 known (dog: 2, eel: 1)" in text and "--skip_unknown" in text
    assert not (tmp_path / "out").exists()
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcow\n\ncat\n", encoding="utf-8")
    found, contents = convert(folder, tmp_path / "out", f"--classes={names}", "--skip_unknown")
    same(all_of(found)["a.jpg"], ("cat", box_mask(1, 1, 9, 9)))
    assert all_of(found)["b.jpg"] == []
    assert contents["val"]["categories"] == [{"id": 1, "name": "cow"}, {"id": 2, "name": "cat"}]
    assert "2  an object of the unknown class dog (a.jpg, b.jpg)" in capsys.readouterr().out


def many_pictures(folder, names):
    for name in names:
        write_labelme(folder, name, [box("cat", 1, 1, 9, 9)])


def test_split_is_seeded_and_stays_when_pictures_come(tmp_path):
    folder = tmp_path / "in"
    many_pictures(folder, [f"p{k}" for k in range(40)])
    first, _ = convert(folder, tmp_path / "1", "--val_share=0.3")
    assert 4 <= len(first["val"]) <= 20 and len(first["train"]) + len(first["val"]) == 40
    other, _ = convert(folder, tmp_path / "2", "--val_share=0.3", "--seed=1")
    assert set(other["val"]) != set(first["val"])
    many_pictures(folder, [f"new{k}" for k in range(10)])
    later, _ = convert(folder, tmp_path / "3", "--val_share=0.3")
    assert set(later["val"]) >= set(first["val"]) and set(later["train"]) >= set(first["train"])


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_two_pictures_are_one_for_each_split(tmp_path, share):
    many_pictures(tmp_path / "in", "ab")
    found, _ = convert(tmp_path / "in", tmp_path / "out", f"--val_share={share}")
    assert len(found["train"]) == len(found["val"]) == 1


def test_folders_named_train_and_val_are_the_split(tmp_path, capsys):
    for part in ("train", "valid", "test"):
        many_pictures(tmp_path / "in" / part, ["a", "b"])
    found, _ = convert(tmp_path / "in", tmp_path / "out")
    assert {split: set(pictures) for split, pictures in found.items()} == {
        "train": {"train/a.jpg", "train/b.jpg"}, "val": {"valid/a.jpg", "valid/b.jpg"}}
    assert "2  a picture outside the folders train and val (test/a.jpg, test/b.jpg)" in capsys.readouterr().out


@pytest.mark.parametrize(("prepare", "options", "parts"), [
    (lambda folder: None, ["--annotations=nowhere"], ["nowhere is no folder", "--annotations"]),
    (lambda folder: None, [], ["does not tell the format; give --format"]),
    (lambda folder: None, ["--format=labelme"], ["nothing in", "can be converted", "--format"]),
    (lambda folder: None, ["--format=voc"], ["JPEGImages does not exist; correct --images"]),
    (lambda folder: (folder / "a.json").write_text("{"), [], ["1 a JSON file that is damaged (a.json)"]),
    (lambda folder: write_labelme(folder, "a", []), [], ["there is no object in the 1 pictures"]),
    (lambda folder: many_pictures(folder, "a"), [], ["no picture is left for val of the 1", "left out: nothing"]),
    (lambda folder: many_pictures(folder, "ab"), ["--classes=a,a"], ["--classes=a,a has no name, or one twice"]),
    (lambda folder: many_pictures(folder, "ab"), ["--images=nowhere"], ["nowhere does not exist; correct --images"]),
    (lambda folder: many_pictures(folder, "ab"), ["--out=in/a.json"], ["a.json"]),
])
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, prepare, options, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    prepare(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    text = failure(capsys, "--annotations=in", "--out=out", *options)
    assert all(part in text for part in parts), text
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize("option", ["--val_share=0", "--val_share=1", "--val_share=nan", "--name=a/b", "--name=",
                                    "--format=coco"])
def test_wrong_options_are_argparse_errors(option, capsys):
    with pytest.raises(SystemExit) as exit_info:
        x2coco.main(["--annotations=in", "--out=out", option])
    assert exit_info.value.code == 2 and option.partition("=")[0] in capsys.readouterr().err


def test_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch, capsys):
    many_pictures(tmp_path / "in", "abc")
    convert(tmp_path / "in", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {"instances_train.json", "instances_val.json", "instances_preview.png"}
    many_pictures(tmp_path / "in", "defg")
    dump = json.dump

    def fail_in_val(content, file):
        if content["info"]["description"].startswith("val"):
            raise OSError("No space left on device")
        dump(content, file)
    monkeypatch.setattr(json, "dump", fail_in_val)
    assert "No space left" in failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--copy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_copy_links_pictures(tmp_path, capsys):
    many_pictures(tmp_path / "in" / "sub", "abc")
    found, _ = convert(tmp_path / "in", tmp_path / "out", "--copy")
    assert set(all_of(found)) == {"sub/a.jpg", "sub/b.jpg", "sub/c.jpg"}
    assert os.path.samefile(tmp_path / "in" / "sub" / "a.jpg", tmp_path / "out" / "images" / "sub" / "a.jpg")
    text = failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--copy")
    assert "images is there already; remove it" in text


def test_summary_preview_and_lines_for_the_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_labelme(Path("in"), "a", [box("cat", 0, 0, 40, 30), box("cat", 1, 1, 5, 5), box("dog", 1, 1, 5, 5)])
    write_labelme(Path("in"), "b", [box("cat", 0, 0, 40, 30)])
    _, contents = convert("in", "data/my fish")
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    expected = {}
    for split, content in contents.items():
        areas = [entry["area"] for entry in content["annotations"]]
        expected[split] = [1, 0, len(areas), 0, areas.count(16), areas.count(1200), 0]
    assert {split: list(map(int, rows[split])) for split in expected} == expected
    assert sum(map(int, rows["cat"])) == 3 and sum(map(int, rows["dog"])) == 1

    from data.config import dataset_base, yolact_base_config
    code = text.partition("for data/config.py:\n\n")[2].partition("\nthen: ")[0]
    scope = {"dataset_base": dataset_base, "yolact_base_config": yolact_base_config}
    exec_lines(code, scope)
    dataset = scope["yolact_my_fish_config"].dataset
    assert dataset.train_info == "./data/my fish/instances_train.json" and Path(dataset.valid_info).is_file()
    assert dataset.train_images == dataset.valid_images == "./in" and dataset.class_names is None
    assert "python tools/check_dataset.py --config=yolact_my_fish_config" in text
    sheet = cv2.imread("data/my fish/instances_preview.png")
    assert sheet.shape[1] > sheet.shape[0] and np.ptp(sheet.reshape(-1, 3), axis=0).min() > 100


def exec_lines(code, scope):
    """Runs printed lines as data/config.py would."""
    import runpy
    Path("lines.py").write_text(code, encoding="utf-8")
    scope.update(runpy.run_path("lines.py", scope))


def test_command_without_the_framework(tmp_path):
    many_pictures(tmp_path / "in", "ab")
    script = ("import sys, runpy; sys.modules['paddle'] = None; sys.argv[0] = 'tools/x2coco.py'; "
              "runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", script, f"--annotations={tmp_path / 'in'}",
                           f"--out={tmp_path / 'out'}"], cwd=Path(x2coco.__file__).parent.parent,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_figures(json.loads((tmp_path / "out" / "instances_train.json").read_text()))
    assert "reading" in done.stderr and "2/2" in done.stderr, "a progress bar"
