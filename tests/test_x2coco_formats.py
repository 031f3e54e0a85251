"""tools/x2coco.py: VOC, SBD, YOLO and instance masks against masks drawn here, and pictures that EXIF turns."""
import json
import sys
import zlib

import numpy as np
import pytest
from converted import all_of, box_mask, convert, corners, read, same, save_picture
from PIL import Image, ImageOps
from pycocotools import mask as codec
from test_x2coco import as_base64, box, failure, shape, write_labelme

from data.config import PASCAL_CLASSES, get_config
from data.images import decode_rle, read_image, to_rle
from tools import x2coco


def save_values(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_voc(folder, name, split, objects, classes, picture=True):
    """One picture of a VOC folder; values uint8 [30, 40], stored with a palette as in VOC."""
    for part, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        path = folder / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        indexed = Image.fromarray(values).convert("P")
        indexed.putdata(values.ravel().tolist())
        indexed.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        indexed.save(path)
    if picture:
        save_picture(folder / "JPEGImages" / f"{name}.jpg")
    if split:
        lists = folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        with open(lists / f"{split}.txt", "a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def voc_values():
    """Two objects with a void border, the second with a hole: values of objects and classes."""
    objects = np.zeros((30, 40), np.uint8)
    objects[2:12, 3:23] = 255
    objects[3:11, 4:22] = 1
    objects[15:28, 5:35] = 2
    objects[18:24, 10:20] = 0
    classes = np.where(objects == 1, 15, np.where(objects == 2, 8, objects)).astype(np.uint8)
    return objects, classes


HOLED = box_mask(5, 15, 35, 28) & ~box_mask(10, 18, 20, 24)


def test_voc(tmp_path, capsys):
    folder = tmp_path / "VOC2012"
    objects, classes = voc_values()
    write_voc(folder, "2007_1", "train", objects, classes)
    write_voc(folder, "2007_2", "val", objects, classes)
    write_voc(folder, "unlisted", None, objects, classes)
    half = classes.copy()
    half[objects == 2] = 255
    half[15, 5:8] = (20, 20, 7)  # most pixels of an object decide
    half[objects == 1] = 0
    write_voc(folder, "half", "train", objects, half)
    write_voc(folder, "2007_1", "val", objects, classes)  # in both lists
    for name, values, more in (("gone", objects, False), ("cut", objects, True), ("small", objects[1:], True)):
        write_voc(folder, name, "val", values, classes, more)
    data = (folder / "SegmentationObject" / "cut.png").read_bytes()
    (folder / "SegmentationObject" / "cut.png").write_bytes(data[:len(data) // 2])
    (folder / "ImageSets" / "Segmentation" / "val.txt").open("a").write("nomask\n\n")
    save_picture(folder / "JPEGImages" / "nomask.jpg")

    found, contents = convert(folder, tmp_path / "out")
    assert {split: set(pictures) for split, pictures in found.items()} == {
        "train": {"2007_1.jpg", "half.jpg"}, "val": {"2007_2.jpg"}}
    for objects in (found["train"]["2007_1.jpg"], found["val"]["2007_2.jpg"]):
        same(objects, ("person", box_mask(4, 3, 22, 11)), ("cat", HOLED))
    same(found["train"]["half.jpg"], ("tvmonitor", HOLED))
    assert [entry["name"] for entry in contents["val"]["categories"]] == list(PASCAL_CLASSES)
    text = capsys.readouterr().out
    for line in ("an object without a class in SegmentationClass (half)", "a name that is in the lists twice (2007_1)",
                 "an annotation whose picture is missing (gone)", "a mask picture that cannot be read (cut)",
                 "masks in SegmentationObject and SegmentationClass that differ in size (small)",
                 "a picture without its mask in SegmentationObject or SegmentationClass (nomask)"):
        assert f"1  {line}\n" in text, text


def test_voc_of_ones_own(tmp_path, capsys):
    """Without lists, and with the class list that labelme writes."""
    objects, classes = voc_values()
    classes[classes == 15], classes[classes == 8] = 1, 2
    for name in ("a", "b"):
        write_voc(tmp_path / "in", name, None, objects, classes)
    (tmp_path / "in" / "class_names.txt").write_text("__ignore__\n_background_\nsalmon\npike\n")
    found, contents = convert(tmp_path / "in", tmp_path / "out")
    same(all_of(found)["a.jpg"], ("salmon", box_mask(4, 3, 22, 11)), ("pike", HOLED))
    assert contents["train"]["categories"] == [{"id": 1, "name": "salmon"}, {"id": 2, "name": "pike"}]
    text = failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'no'}", "--classes=salmon")
    assert "1 classes of objects are not among the 1 known (number 2: 2)" in text
    (tmp_path / "in" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "in" / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    text = failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'no'}")
    assert "val.txt is missing" in text


def write_sbd(folder, name, split, values, classes):
    """One picture of SBD, its .mat as Matlab wrote it: struct GTinst of Segmentation, Boundaries, Categories."""
    io = pytest.importorskip("scipy.io")
    truth = np.zeros((1, 1), [("Segmentation", object), ("Boundaries", object), ("Categories", object)])
    truth[0, 0] = (values, np.zeros((len(classes), 1), object), np.array(classes, np.uint8).reshape(-1, 1))
    (folder / "inst").mkdir(parents=True, exist_ok=True)
    io.savemat(folder / "inst" / f"{name}.mat", {"GTinst": truth}, do_compression=True)
    save_picture(folder / "img" / f"{name}.jpg")
    with open(folder / f"{split}.txt", "a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def test_sbd_is_what_the_pascal_config_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "sbd"
    objects, _ = voc_values()
    for name, split in (("2008_000002", "train"), ("2008_000003", "val"), ("2008_000004", "val")):
        write_sbd(folder, name, split, objects, [15, 8])
    write_sbd(folder, "2008_000005", "train", objects, [1])  # its second object has no category
    (folder / "inst" / "2008_000004.mat").write_bytes((folder / "inst" / "2008_000004.mat").read_bytes()[:150])
    x2coco.main(["--format=sbd", "--annotations=data/sbd", "--out=data/sbd", "--name=pascal_sbd"])

    dataset = get_config("yolact_resnet50_pascal_config").dataset
    assert dataset.train_info == "./data/sbd/pascal_sbd_train.json"
    found, contents = read("data/sbd", dataset.train_images, "pascal_sbd")
    same(found["train"]["2008_000002.jpg"], ("person", box_mask(4, 3, 22, 11)), ("cat", HOLED))
    same(found["train"]["2008_000005.jpg"], ("aeroplane", box_mask(4, 3, 22, 11)))
    assert set(found["val"]) == {"2008_000003.jpg"}
    assert [(entry["id"], entry["name"]) for entry in contents["train"]["categories"]] == list(
        enumerate(PASCAL_CLASSES, 1))
    assert {entry["category_id"] for entry in contents["val"]["annotations"]} == {15, 8}
    text = capsys.readouterr().out
    assert "1  a .mat file that is damaged (2008_000004)\n" in text
    assert "1  an object without an entry in Categories (2008_000005)\n" in text
    assert "next: python tools/check_dataset.py --config=yolact_resnet50_pascal_config" in text


@pytest.mark.parametrize(("module", "kind", "fix"), [("scipy", "sbd", "pip install scipy"),
                                                     ("yaml", "yolo", "pip install pyyaml")])
def test_missing_packages_are_named(tmp_path, monkeypatch, capsys, module, kind, fix):
    for name in ("img", "images"):
        save_picture(tmp_path / "in" / name / "a.jpg")
    (tmp_path / "in" / "data.yaml").write_text("names: [a]")
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    text = failure(capsys, f"--format={kind}", f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")
    assert fix in text


def yolo_line(number, *edges, width=40, height=30):
    points = np.array(corners(*edges)) / (width, height)
    return " ".join([str(number), *(f"{value:.6f}" for value in points.ravel())])


def write_yolo(folder, name, lines, part=""):
    save_picture(folder / "images" / part / f"{name}.jpg")
    path = folder / "labels" / part / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_yolo(tmp_path, capsys):
    pytest.importorskip("yaml")
    folder = tmp_path / "in"
    (tmp_path / "in").mkdir()
    (folder / "data.yaml").write_text("path: ../x\nnames:\n  0: salmon\n  2: pike\n", encoding="utf-8")
    write_yolo(folder, "a", [yolo_line(0, 3, 4, 20, 15), "", yolo_line(2, 30, 20, 44, 33)], "train")
    write_yolo(folder, "empty", [], "train")
    save_picture(folder / "images" / "train" / "nolabel.png")
    write_yolo(folder, "c", [yolo_line(2, 0, 0, 40, 30)], "val")
    write_yolo(folder, "odd", ["0 0.5 0.5 0.2 0.2", "0 0.1 0.1 0.9", "0 0.1 0.1 0.9 0.1 0.9 0.9 0.3",
                               "0 nan 0.1 0.9 0.1 0.9 0.9", "0 5 5 900 5 900 900", "0 1e308 0 1 0 1 1"], "val")
    write_yolo(folder, "text", ["fish 0.1 0.1 0.9 0.1 0.9 0.9"], "val")
    write_yolo(folder, "half", ["0.5 0.1 0.1 0.9 0.1 0.9 0.9"], "val")
    (folder / "labels" / "val" / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    save_picture(folder / "images" / "val" / "bytes.jpg")
    (folder / "labels" / "val" / "gone.txt").write_text("0 0 0 1 0 1 1")
    (folder / "images" / "val" / "nopic.jpg").write_bytes(b"\xff\xd8nothing")
    found, contents = convert(folder, tmp_path / "out")
    assert {split: set(pictures) for split, pictures in found.items()} == {
        "train": {"train/a.jpg", "train/empty.jpg", "train/nolabel.png"}, "val": {"val/c.jpg", "val/odd.jpg"}}
    same(found["train"]["train/a.jpg"], ("salmon", box_mask(3, 4, 20, 15)), ("pike", box_mask(30, 20, 40, 30)))
    same(found["val"]["val/c.jpg"], ("pike", box_mask(0, 0, 40, 30)))
    assert found["train"]["train/nolabel.png"] == found["val"]["val/odd.jpg"] == []
    assert [entry["name"] for entry in contents["val"]["categories"]] == ["salmon", "number 1", "pike"]
    text = capsys.readouterr().out
    for line in ("3  a label file that is damaged (a line is a class number, then numbers) (labels/val/bytes.txt, ",
                 "1  a line with a box and no outline (", "2  a line with an odd number of coordinates (",
                 "1  an outline further than 10 times", "2  an outline that is no list of points x, y (",
                 "1  an annotation whose picture is missing (labels/val/gone.txt)",
                 "1  a picture that cannot be read ("):
        assert line in text, f"{line}\n\nis not in\n\n{text}"


def test_yolo_folders_of_other_tools(tmp_path, capsys):
    """train/images beside train/labels; and the folder of the labels, with names in classes.txt."""
    for part in ("train", "valid"):
        save_picture(tmp_path / "in" / part / "images" / "a.jpg")
        (tmp_path / "in" / part / "labels").mkdir()
        (tmp_path / "in" / part / "labels" / "a.txt").write_text(yolo_line(1, 3, 4, 20, 15))
    found, _ = convert(tmp_path / "in", tmp_path / "out", "--format=yolo", "--classes=cat,dog")
    same(found["train"]["train/images/a.jpg"], ("dog", box_mask(3, 4, 20, 15)))
    same(found["val"]["valid/images/a.jpg"], ("dog", box_mask(3, 4, 20, 15)))

    for name in ("a", "b"):
        write_yolo(tmp_path / "flat", name, [yolo_line(1, 3, 4, 20, 15)])
    command = ["--format=yolo", f"--annotations={tmp_path / 'flat' / 'labels'}", f"--out={tmp_path / 'out2'}"]
    assert "neither data.yaml nor classes.txt" in failure(capsys, *command)
    (tmp_path / "flat" / "labels" / "classes.txt").write_text("cat\ndog\n")
    x2coco.main(command)
    found, _ = read(tmp_path / "out2", tmp_path / "flat" / "images")
    same(all_of(found)["b.jpg"], ("dog", box_mask(3, 4, 20, 15)))
    (tmp_path / "flat" / "labels" / "classes.txt").write_text("cat\n")
    assert "(number 1: 2)" in failure(capsys, *command)


def test_instance_masks_of_one_class(tmp_path, capsys):
    grey, colours = np.zeros((30, 40), np.uint16), np.zeros((30, 40, 3), np.uint8)
    for value, (x1, y1, x2, y2) in ((7, (1, 1, 9, 9)), (999, (20, 2, 30, 12)), (40_000, (5, 15, 35, 28))):
        grey[y1:y2, x1:x2] = value
        colours[y1:y2, x1:x2] = (value % 256, 0, value // 256)
    grey[18:24, 10:20] = colours[18:24, 10:20] = 0
    for name, values in (("a", grey), ("b", colours), ("c", (grey == 7))):
        save_values(tmp_path / "masks" / f"{name}.png", values)
        save_picture(tmp_path / "images" / f"{name}.jpg")
    save_picture(tmp_path / "images" / "without.jpg")
    save_values(tmp_path / "masks" / "gone.png", grey)
    command = ["--format=instance_masks", f"--images={tmp_path / 'images'}"]
    text = failure(capsys, f"--annotations={tmp_path / 'masks'}", f"--out={tmp_path / 'out'}", *command)
    assert "a.png does not name its classes; give them as --classes" in text
    found, _ = convert(tmp_path / "masks", tmp_path / "out", *command, "--classes=cell")
    expected = [("cell", mask) for mask in (box_mask(1, 1, 9, 9), box_mask(20, 2, 30, 12), HOLED)]
    for name in ("a.jpg", "b.jpg"):
        same(all_of(found)[name], *expected)
    same(all_of(found)["c.jpg"], expected[0])
    text = capsys.readouterr().out
    assert "1  a picture without masks (without)" in text and "picture is missing (gone.png)" in text


def test_instance_masks_of_several_classes(tmp_path, capsys):
    values = np.zeros((30, 40), np.uint16)
    values[1:9, 1:9], values[1:9, 20:30], values[15:28, 5:35], values[18:24, 10:20] = 1001, 2000, 2001, 2
    save_picture(tmp_path / "images" / "a.png")
    save_values(tmp_path / "masks" / "a.png", values)
    save_picture(tmp_path / "images" / "b.png")
    save_values(tmp_path / "masks" / "b" / "dog_1.png", (values == 2001).astype(np.uint8) * 255)
    save_values(tmp_path / "masks" / "b" / "hot_dog_12.png", values == 2000)
    save_values(tmp_path / "masks" / "b" / "nameless.png", values == 2000)
    save_picture(tmp_path / "images" / "c.png")
    save_values(tmp_path / "masks" / "c.png", np.zeros((30, 40, 3), np.uint8))
    found, contents = convert(tmp_path / "masks", tmp_path / "out", "--format=instance_masks",
                              f"--images={tmp_path / 'images'}", "--classes=cat,dog,hot_dog")
    same(all_of(found)["a.png"], ("cat", box_mask(1, 1, 9, 9)), ("dog", box_mask(20, 1, 30, 9)), ("dog", HOLED),
         (None, box_mask(10, 18, 20, 24)))
    same(all_of(found)["b.png"], ("dog", HOLED), ("hot_dog", box_mask(20, 1, 30, 9)))
    crowd, = [entry for content in contents.values() for entry in content["annotations"] if entry["iscrowd"]]
    assert crowd["category_id"] == 2
    text = capsys.readouterr().out
    assert "1  a mask that is not named <class>_<n>.png (b/nameless.png)" in text
    assert "1  a mask in colours, which do not tell several classes apart (c.png)" in text
    found, _ = convert(tmp_path / "masks", tmp_path / "out3", "--format=instance_masks",
                       f"--images={tmp_path / 'images'}", "--classes=cat", "--skip_unknown")
    assert [name for name, _ in all_of(found)["a.png"]] == ["cat"] * 4
    text = failure(capsys, "--format=instance_masks", f"--annotations={tmp_path / 'masks'}",
                   f"--images={tmp_path / 'masks'}", f"--out={tmp_path / 'out'}")
    assert "give the folder of the pictures as --images" in text


def upright_mask(size):
    """Something without any symmetry in an upright picture of that (width, height)."""
    return box_mask(2, 3, 20, 9, *size) | box_mask(2, 3, 7, 25, *size)


OUTLINE = [[2, 3], [20, 3], [20, 9], [7, 9], [7, 25], [2, 25]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_that_exif_turns(tmp_path, capsys, orientation):
    """Pillow's own turning says where a mask of the upright picture lies in the stored one."""
    pytest.importorskip("yaml")
    stored = (40, 30)
    upright = stored[::-1] if orientation >= 5 else stored
    mask = upright_mask(upright)
    part = mask[3:25, 2:20]
    shapes = [shape("fish", OUTLINE), shape("fish", [[2, 3], [19, 24]], "mask", mask=as_base64(part)),
              box("fish", -5, 3, 20, 9)]
    write_labelme(tmp_path / "in", "a", shapes, size=upright)
    write_labelme(tmp_path / "in", "b", shapes, size=(None, None))
    for name in ("a", "b"):
        save_picture(tmp_path / "in" / f"{name}.jpg", *stored, orientation)
    found, contents = convert(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "in" / "a.jpg") as picture:
        assert ImageOps.exif_transpose(picture).size == upright
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)  # the orientation that undoes it

    def turned(values):
        exif = Image.Exif()
        exif[0x0112] = back
        image = Image.fromarray(values)
        image.info["exif"] = exif.tobytes()
        return np.asarray(ImageOps.exif_transpose(image))
    expected = [("fish", turned(values)) for values in (mask, mask, box_mask(0, 3, 20, 9, *upright))]
    for name in ("a.jpg", "b.jpg"):
        same(all_of(found)[name], *expected)
    text = capsys.readouterr().out
    assert ("2  a picture stored sideways, upside down or mirrored (EXIF)" in text) == (orientation != 1)

    found, contents = convert(tmp_path / "in", tmp_path / "copied", "--copy")
    same(all_of(found)["a.jpg"], ("fish", mask), ("fish", mask), ("fish", box_mask(0, 3, 20, 9, *upright)))
    copied = read_image(str(tmp_path / "copied" / "images" / "a.jpg"))
    assert copied.shape[1::-1] == upright
    seen = read_image(str(tmp_path / "in" / "a.jpg"), apply_orientation=True)
    assert np.abs(copied.astype(int) - seen).mean() < 6, "the same picture, encoded anew"
    assert "EXIF" not in capsys.readouterr().out


def test_annotated_as_stored_stays_so(tmp_path, capsys):
    """The size tells that a tool did not heed EXIF; masks and relative positions follow the same rule."""
    for name in ("a", "b"):
        write_labelme(tmp_path / "in", name, [shape("fish", OUTLINE)], size=(40, 30))
        save_picture(tmp_path / "in" / f"{name}.jpg", 40, 30, 6)
    for options in ([], ["--copy"]):
        found, _ = convert(tmp_path / "in", tmp_path / f"out{len(options)}", *options)
        same(all_of(found)["a.jpg"], ("fish", upright_mask((40, 30))))
    (tmp_path / "masks").mkdir()
    Image.fromarray(upright_mask((30, 40))).save(tmp_path / "masks" / "a.png")  # upright
    Image.fromarray(upright_mask((40, 30))).save(tmp_path / "masks" / "b.png")  # stored
    found, _ = convert(tmp_path / "masks", tmp_path / "out3", "--format=instance_masks",
                       f"--images={tmp_path / 'in'}", "--classes=fish")
    same(all_of(found)["a.jpg"], ("fish", np.rot90(upright_mask((30, 40)))))
    same(all_of(found)["b.jpg"], ("fish", upright_mask((40, 30))))
    for name in ("a", "b"):
        points = (np.array(OUTLINE) / (30, 40)).ravel()
        write_yolo(tmp_path / "yolo", name, [" ".join(["0", *(f"{value:.6f}" for value in points)])])
        save_picture(tmp_path / "yolo" / "images" / f"{name}.jpg", 40, 30, 6)
    found, _ = convert(tmp_path / "yolo", tmp_path / "out4", "--format=yolo", "--classes=fish")
    same(all_of(found)["a.jpg"], ("fish", np.rot90(upright_mask((30, 40)))))


def test_cut_pictures_and_copies(tmp_path, capsys):
    """A picture that is cut off behind its header is found where it is decoded."""
    for name, orientation in (("a", 6), ("b", 6), ("c", 6), ("d", None)):
        write_labelme(tmp_path / "in", name, [box("fish", 1, 1, 9, 9)], size=(30, 40) if orientation else (40, 30))
        save_picture(tmp_path / "in" / f"{name}.jpg", 40, 30, orientation)
    data = (tmp_path / "in" / "c.jpg").read_bytes()
    (tmp_path / "in" / "c.jpg").write_bytes(data[:-100])
    found, _ = convert(tmp_path / "in", tmp_path / "out", "--copy")
    assert set(all_of(found)) == {"a.jpg", "b.jpg", "d.jpg"}
    assert "1  a picture that is cut off (c.jpg)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def real(coco_tiny, tmp_path_factory):
    """Real pictures and masks: (folder, {file name: [(class name, mask)]}), crowds left out."""
    content = json.loads((coco_tiny / "annotations" / "instances_val2017.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    truth = {image["file_name"]: (image, []) for image in content["images"][:12]}
    by_id = {image["id"]: objects for image, objects in truth.values()}
    for entry in content["annotations"]:
        if entry["image_id"] in by_id and not entry["iscrowd"]:
            by_id[entry["image_id"]].append((names[entry["category_id"]], entry["segmentation"]))
    return coco_tiny / "val2017", truth


def test_real_masks_there_and_back(real, tmp_path):
    pictures, truth = real
    for name, (image, objects) in truth.items():
        stem, size = name[:-4], (image["height"], image["width"])
        shapes = [shape(label, np.reshape(polygon, (-1, 2)).tolist(), group=number)
                  for number, (label, polygons) in enumerate(objects) for polygon in polygons]
        write_labelme(tmp_path / "labelme", stem, shapes, name, size[::-1])
        for number, (label, polygons) in enumerate(objects):
            save_values(tmp_path / "masks" / stem / f"{label}_{number}.png",
                        decode_rle(to_rle(polygons, *size)))
    for kind in ("labelme", "instance_masks"):
        folder = tmp_path / ("masks" if kind == "instance_masks" else kind)
        out = tmp_path / f"out_{kind}"
        found, contents = convert(folder, out, f"--format={kind}", f"--images={pictures}")
        for name, (image, objects) in truth.items():
            got = all_of(found).get(name, [])
            expected = [to_rle(polygons, image["height"], image["width"]) for _, polygons in objects]
            assert sorted(label for label, _ in got) == sorted(label for label, _ in objects)
            if got:
                masks = [codec.encode(np.asfortranarray(mask, np.uint8)) for _, mask in got]
                overlaps = codec.iou(masks, expected, [0] * len(expected))
                assert overlaps.max(axis=0).min() > (0.97 if kind == "labelme" else 0.999)


def failing_yaml(tmp_path, capsys, text):
    save_picture(tmp_path / "in" / "images" / "a.jpg")
    (tmp_path / "in" / "data.yaml").write_text(text)
    return failure(capsys, f"--annotations={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")


@pytest.mark.parametrize("text", [
    'names: ["\\UFFFFFFFF"]', "names: " + "[" * 500 + "]" * 500, "names: [[a]]",
    "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi"))
    + "names: *i"], ids=["no character", "deep", "nested", "aliases"])
def test_yaml_names_that_are_no_texts(tmp_path, capsys, text):
    pytest.importorskip("yaml")
    assert "data.yaml has no usable 'names'" in failing_yaml(tmp_path, capsys, text)


def test_numbers_that_no_format_holds(tmp_path, capsys):
    """Integers that are no float64, a TIFF's values in a .png, a PNG's part that Pillow stumbles over, SBD below 0."""
    huge = [[10 ** 400, 1], [5, 5], [9, 1]]
    write_labelme(tmp_path / "in", "a", [box("cat", 1, 1, 9, 9), shape("cat", huge), shape("cat", huge[:2], "circle")])
    write_labelme(tmp_path / "in", "b", [box("cat", 1, 1, 9, 9)])
    found, _ = convert(tmp_path / "in", tmp_path / "out")
    assert len(all_of(found)["a.jpg"]) == 1
    masks = tmp_path / "masks"
    for name, value in (("a", -1), ("b", 2 ** 31 - 1), ("c", 1001)):
        masks.mkdir(exist_ok=True)
        Image.fromarray(np.full((30, 40), value, np.int32)).save(masks / f"{name}.png", "TIFF")
        save_picture(tmp_path / "in" / f"{name}.jpg")
    save_values(masks / "d.png", np.full((30, 40), 1001, np.uint16))
    save_values(masks / "e.png", np.full((30, 40), 1001, np.uint16))
    data = (masks / "e.png").read_bytes()
    (masks / "e.png").write_bytes(data[:-12] + b"\0\0\0\0iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big") + data[-12:])
    for name in "de":
        save_picture(tmp_path / "in" / f"{name}.jpg")
    found, _ = convert(masks, tmp_path / "out2", "--format=instance_masks", "--classes=x,y",
                       f"--images={tmp_path / 'in'}")
    assert set(all_of(found)) >= {"c.jpg", "d.jpg"} and not {"a.jpg", "b.jpg"} & set(all_of(found))
    capsys.readouterr()


def test_sbd_labels_below_zero(tmp_path, capsys):
    labels = voc_values()[0].astype(np.int32)
    for name, split, values in (("a", "train", labels), ("b", "val", labels), ("c", "val", -labels)):
        write_sbd(tmp_path / "in", name, split, values, [15, 8])
    found, _ = convert(tmp_path / "in", tmp_path / "out")
    assert set(all_of(found)) == {"a.jpg", "b.jpg"}
    assert "1  a .mat file that is damaged (c)\n" in capsys.readouterr().out
