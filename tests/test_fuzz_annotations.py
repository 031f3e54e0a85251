"""Annotations in other formats with anything wrong in them: tools/x2coco.py converts them, or ends in one line."""

import base64
import functools
import io
import json
import struct
import zlib
from unittest import mock

import numpy as np
import pytest
from converted import read, save_picture
from fuzz import DEEP_JSON, ODD_TEXTS, cases, every_change, guarded, odd_values, refusal, spoilt, spoilt_bytes, told
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images import decode_rle, to_rle
from tools import x2coco
from tools.annotations import labelme, pictures, voc
from tools.annotations.coco_file import write_files
from tools.annotations.objects import Job, Report, Source
from utils.labels import font_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
WIDTH, HEIGHT = 40, 30
SOUND = [[3, 4], [20, 4], [20, 15], [3, 15]]
KINDS = ("labelme", "yolo", "voc", "instance_masks", "sbd")
OPTIONS = {"yolo": ["--classes=cat,dog"], "instance_masks": ["--images={}/images", "--classes=cat,dog"]}


def png(values, mode=None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def label_map(*values) -> np.ndarray:
    """int64 [HEIGHT, WIDTH] with a box of each value."""
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, value in enumerate(values):
        labels[4:15, 3 + 10 * number : 11 + 10 * number] = value
    return labels


def sound_labelme() -> dict:
    """A shape of every kind, a hole, and one object of two parts."""
    drawn = base64.b64encode(png(np.eye(6, dtype=np.uint8) * 255)).decode()

    def shape(points, kind="polygon", group=None, **more):
        return {"label": "cat", "points": points, "shape_type": kind, "group_id": group, **more}

    shapes = [
        shape(SOUND, group=1),
        shape([[5, 6], [9, 6], [9, 9]], group=1),
        shape([[30, 25], [22, 10]], "rectangle"),
        shape([[20, 20], [24, 20]], "circle"),
        shape([[2, 3], [7, 8]], "mask", mask=drawn),
    ]
    return {"shapes": shapes, "imagePath": "a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH}


def sound_mat() -> bytes:
    io_of_matlab = pytest.importorskip("scipy.io")
    truth = np.zeros((1, 1), [("Segmentation", object), ("Boundaries", object), ("Categories", object)])
    truth[0, 0] = (label_map(1, 2).astype(np.uint8), np.zeros((2, 1), object), np.array([[15], [8]], np.uint8))
    buffer = io.BytesIO()
    io_of_matlab.savemat(buffer, {"GTinst": truth})
    return buffer.getvalue()


@functools.cache
def sound_files(kind) -> dict:
    """{path: bytes} of the annotations of the picture "a"; "b" has the same."""
    if kind == "labelme":
        return {"{}.json": json.dumps(sound_labelme()).encode()}
    if kind == "yolo":
        return {"labels/{}.txt": b"0 0.1 0.1 0.6 0.1 0.6 0.7\n1 0.5 0.5 0.9 0.5 0.9 1.1\n"}
    if kind == "voc":
        objects, classes = (label_map(*values).astype(np.uint8) for values in ((1, 2), (15, 8)))
        return {"SegmentationObject/{}.png": png(objects, "P"), "SegmentationClass/{}.png": png(classes, "P")}
    if kind == "instance_masks":
        return {"{}.png": png(label_map(1001, 2001, 2).astype(np.uint16))}
    return {"inst/{}.mat": sound_mat()}


LISTS = {"voc": "ImageSets/Segmentation/", "sbd": ""}
PICTURES = {"labelme": "", "yolo": "images/", "voc": "JPEGImages/", "instance_masks": "images/", "sbd": "img/"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that gives the folder of a kind with sound pictures and annotations; the same for all its cases."""
    root = tmp_path_factory.mktemp("fuzz")
    font_file("\N{CJK UNIFIED IDEOGRAPH-4E2D}")  # asks the system for its fonts, once, by a command

    def sound(kind):
        folder = root / kind
        for name in "ab":
            if not (folder / PICTURES[kind] / f"{name}.jpg").exists():
                save_picture(folder / PICTURES[kind] / f"{name}.jpg", WIDTH, HEIGHT)
            for path, data in sound_files(kind).items():
                put(folder / path.format(name), data.replace(b"a.jpg", name.encode() + b".jpg"))
        if kind in LISTS:
            put(folder / LISTS[kind] / "train.txt", b"a\n")
            put(folder / LISTS[kind] / "val.txt", b"b\n")
        return folder

    return sound


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def check(folder, kind, *options):
    """Converts: ends in one line, or hands files to the writer that training reads; else nothing is changed.

    Returns:
        {file name: objects} of `converted.read`, or None where it ended in its line.
    """
    out = folder.parent / f"{kind}_out"
    given_options = options or [text.format(folder) for text in OPTIONS.get(kind, [])]
    with guarded(), mock.patch.object(x2coco, "write_files") as writer, refusal(SystemExit):
        try:
            x2coco.main([f"--format={kind}", f"--annotations={folder}", f"--out={out}", *given_options])
        except SystemExit as error:
            assert str(error).startswith("x2coco.py: error: ")
            raise
    if not writer.called:
        return None
    write_files(*writer.call_args.args)
    found, _ = read(out, folder / PICTURES[kind])
    assert sorted(path.name for path in out.iterdir()) == [
        f"instances_{part}" for part in ("preview.png", "train.json", "val.json")
    ]
    return {**found["train"], **found["val"]}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_folders_are_converted(folders, kind):
    found = check(folders(kind), kind)
    assert {name: len(objects) for name, objects in found.items()} == dict.fromkeys(
        ("a.jpg", "b.jpg"), {"labelme": 4, "instance_masks": 3}.get(kind, 2)
    )


@pytest.mark.parametrize("kind", KINDS)
@cases(6)
@given(data=st.data())
def test_spoilt_bytes(folders, kind, data):
    """The other picture is sound: its objects come through whatever this one has."""
    folder = folders(kind)
    for path, content in sound_files(kind).items():
        put(folder / path.format("a"), data.draw(spoilt_bytes(content) | st.binary(max_size=60)))
    check(folder, kind)


# --- labelme ---


def test_every_place_of_a_labelme_file(folders):
    folder = folders("labelme")
    source = Source(str(folder), str(folder), None, Report())
    sound = sound_labelme()
    sound["shapes"] = [sound["shapes"][k] for k in (1, 4)]
    for words, content in every_change(sound):
        put(folder / "a.json", json.dumps(content).encode())
        with told(words), guarded(), refusal(pictures.Unusable):
            picture = labelme.read(source, Job("a.json", [str(folder / "a.json")]))
            for item in picture.objects:
                assert item.name.strip() and isinstance(item.name, str)
                decode_rle(to_rle(item.segmentation, HEIGHT, WIDTH))


@cases(14)
@given(
    content=spoilt(sound_labelme(), most=6).map(json.dumps) | st.sampled_from(DEEP_JSON),
    options=st.sampled_from(((), ("--classes=cat",), ("--classes=cat,x", "--skip_unknown"))),
)
def test_spoilt_labelme_files(folders, content, options):
    folder = folders("labelme")
    put(folder / "a.json", content.encode())
    check(folder, "labelme", *options)


@pytest.mark.parametrize("options", [(), ("--classes=cat",)])
@pytest.mark.parametrize("text", [text[:400] for text in ODD_TEXTS])
def test_odd_texts(folders, text, options):
    folder = folders("labelme")
    content = sound_labelme()
    content["shapes"][2]["label"] = content["shapes"][3]["group_id"] = content["shapes"][4]["shape_type"] = text
    put(folder / "a.json", json.dumps(content).encode())
    check(folder, "labelme", *options)
    put(folder / "a.json", json.dumps({**content, "imagePath": text}).encode())
    check(folder, "labelme", *options)


@cases(6)
@given(content=spoilt(sound_labelme()), cut=st.integers(0, 400))
def test_copies_are_whole_or_absent(folders, tmp_path_factory, content, cut):
    """The whole command, writing as well, with a picture that EXIF turns and that may be cut off."""
    folder, out = folders("labelme"), tmp_path_factory.mktemp("out") / "out"
    put(folder / "a.json", json.dumps(content).encode())
    save_picture(folder / "c.jpg", WIDTH, HEIGHT, 6)
    turned = json.dumps({**sound_labelme(), "imagePath": "c.jpg", "imageHeight": WIDTH, "imageWidth": HEIGHT})
    put(folder / "c.json", turned.encode())
    whole = (folder / "c.jpg").read_bytes()
    put(folder / "c.jpg", whole[: len(whole) - cut])
    failed = True
    try:
        with guarded(may_write=True), refusal(SystemExit):
            x2coco.main([f"--annotations={folder}", "--format=labelme", f"--out={out}", "--copy"])
            failed = False
    finally:
        (folder / "c.jpg").unlink()
        (folder / "c.json").unlink()
    if failed:
        assert not out.exists() or not list(out.iterdir())
    else:
        found, _ = read(out, out / "images")
        assert set(found["train"]) | set(found["val"]) == {path.name for path in (out / "images").iterdir()}


# --- YOLO ---

NUMBERS = ("0", "1", "2", "0.5", "-1", "1e308", "-1e9", "nan", "inf", "1e-320", "x", "1" * 400, "²", "١", "1_0", "0x1")
WORDS = st.sampled_from(NUMBERS) | st.floats(-0.5, 1.5).map(str)


@cases(16)
@given(lines=st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=4), classes=st.sampled_from(("cat", "a,b")))
def test_any_yolo_lines(folders, lines, classes):
    folder = folders("yolo")
    put(folder / "labels" / "a.txt", "\n".join(lines).encode())
    check(folder, "yolo", f"--classes={classes}", "--skip_unknown")


def doubling(depth) -> str:
    """A text of a few lines whose names are 2 ** depth when they are written out."""
    lines = [f"x{level}: &x{level} [*x{level - 1}, *x{level - 1}]" for level in range(1, depth)]
    return "\n".join(["x0: &x0 [a, a]", *lines, f"names: [cat, *x{depth - 1}]"])


ODD_YAML = (
    "",
    "names",
    "- names",
    "names:",
    "names: {}",
    "names: {1: [a], 0: b}",
    "names: {99999999999: a}",
    "names: {-1: a}",
    "names: {? [0] : a}",
    "names: &x [*x]",
    "names: [a, a]",
    "names: ['', b]",
    'names: ["a\\nb", "a\\nb"]',
    'names: ["\\UFFFFFFFF", b]',
    "names: !!python/object/apply:os.system [echo]",
    "names: [!!python/name:os.system , b]",
    "%YAML 9.9\n---\nnames: [a]",
    "names: " + "[" * 500 + "]" * 500,
    doubling(40),
)


@cases(18)
@given(
    text=odd_values.map(lambda names: json.dumps({"names": names}))
    | spoilt({"path": "x", "names": {"0": "cat", "1": "dog"}}).map(json.dumps)
    | spoilt_bytes(b"path: ../x\nnames:\n  0: cat\n  1: 'dog'\n").map(lambda raw: raw.decode("latin1"))
)
def test_any_data_yaml(folders, text):
    pytest.importorskip("yaml")
    check_yaml(folders("yolo"), text)


@pytest.mark.parametrize("text", ODD_YAML, ids=range(len(ODD_YAML)))
def test_odd_data_yaml(folders, text):
    pytest.importorskip("yaml")
    check_yaml(folders("yolo"), text)


def check_yaml(folder, text):
    put(folder / "data.yaml", text.encode("utf-8", "surrogatepass"))
    check(folder, "yolo", "--name=instances")


# --- masks and pictures ---


def chunk(kind, data) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


CHUNKS = (b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL",
          b"fcTL", b"fdAT", b"IDAT", b"IHDR", b"IEND", b"abcd")
EXIF = b"Exif\0\0" + bytes.fromhex("49492a0008000000010012010300010000000600000000000000")


@cases(50)
@given(
    chunks=st.lists(st.tuples(st.sampled_from(CHUNKS), st.binary(max_size=30) | spoilt_bytes(EXIF[6:])), max_size=3),
    depth=st.sampled_from((1, 2, 4, 8, 16)),
    color=st.sampled_from((0, 0, 2, 3, 4, 6)),
    behind=st.booleans(),
)
def test_png_of_any_parts(tmp_path_factory, chunks, depth, color, behind):
    """Checksums fit, so that Pillow reads what the parts hold."""
    path = tmp_path_factory.getbasetemp() / "parts.png"
    odd = b"".join(chunk(kind, data) for kind, data in chunks)
    rows = chunk(b"IDAT", zlib.compress(bytes(HEIGHT * (1 + WIDTH * 8))))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color, 0, 0, 0))
    parts = (rows, odd) if behind else (odd, rows)
    put(path, b"\x89PNG\r\n\x1a\n" + head + b"".join(parts) + chunk(b"IEND", b""))
    check_picture(path)


@cases(24)
@given(exif=spoilt_bytes(EXIF))
def test_spoilt_exif(tmp_path_factory, exif):
    path = tmp_path_factory.getbasetemp() / "exif.jpg"
    buffer = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT)).save(buffer, "JPEG", exif=exif)
    put(path, buffer.getvalue())
    check_picture(path)


def check_picture(path):
    with guarded(), refusal(pictures.Unusable):
        assert pictures.open_picture(str(path)).orientation in range(1, 9)
    with guarded(), refusal(pictures.Unusable):
        labels, _ = pictures.read_labels(str(path))
        assert labels.dtype == np.int64 and labels.ndim == 2 and labels.min() >= 0


VALUES = st.sampled_from((0, 1, 2, 3, 15, 20, 21, 254, 255, 256, 999, 1000, 1001, 3001, 65535))


@pytest.mark.parametrize("kind", ["voc", "instance_masks"])
@cases(6)
@given(data=st.data(), bits=st.sampled_from((np.uint8, np.uint16)))
def test_any_values_of_masks(folders, kind, data, bits):
    values = [data.draw(st.lists(VALUES, min_size=3, max_size=3)) for _ in sound_files(kind)]
    check_values(folders(kind), kind, values, bits, "PNG")


@pytest.mark.parametrize("kind", ["voc", "instance_masks"])
@pytest.mark.parametrize("value", [-1, -4001, 2**31 - 1])
def test_masks_of_more_bits(folders, kind, value):
    """A TIFF with the suffix of a PNG may hold them; the picture is left out."""
    found = check_values(folders(kind), kind, [(1, 2), (1, value)][-len(sound_files(kind)) :], np.int32, "TIFF")
    assert not found


def check_values(folder, kind, values, bits, file_format):
    for path, boxes in zip(sound_files(kind), values):
        buffer = io.BytesIO()
        Image.fromarray(label_map(*boxes).astype(bits)).save(buffer, file_format)
        put(folder / path.format("a"), buffer.getvalue())
    options = [text.format(folder) for text in OPTIONS.get(kind, ["--classes=a,b"])]
    return check(folder, kind, *options, "--skip_unknown")


# --- VOC's lists, SBD ---


@cases(12)
@given(
    text=st.lists(st.sampled_from((*ODD_TEXTS, "a", "b", "../a", "a.jpg", "JPEGImages/a"))).map("\n".join),
    names=st.none() | st.lists(st.sampled_from(ODD_TEXTS)).map("\n".join),
)
def test_any_lists(folders, text, names):
    folder = folders("voc")
    put(folder / LISTS["voc"] / "train.txt", text.encode("utf-8", "surrogatepass"))
    if names is not None:
        put(folder / "class_names.txt", names.encode("utf-8", "surrogatepass"))
    try:
        check(folder, "voc")
    finally:
        (folder / "class_names.txt").unlink(missing_ok=True)


ARRAYS = st.sampled_from(
    [
        label_map(1, 2).astype(dtype) * factor
        for dtype in (np.int8, np.int32, np.float32, np.uint64)
        for factor in (1, -1, 3)
        if not (dtype is np.uint64 and factor < 0)
    ]
    + [np.full((HEIGHT, WIDTH), value) for value in (np.nan, -np.inf, 1e300, 2**62)]
    + [np.zeros(shape) for shape in ((0, 0), (HEIGHT, 0), (HEIGHT, WIDTH, 2))]
    + [np.array([[15], [8]]), np.array([[-1], [0]]), np.array([1e30, np.nan]), "text", np.array([["x", None]], object)]
)


@cases(20)
@given(segmentation=ARRAYS, categories=ARRAYS, name=st.sampled_from(("GTinst", "GTinst", "GTcls")))
def test_any_matlab_values(folders, segmentation, categories, name):
    io_of_matlab = pytest.importorskip("scipy.io")
    folder, buffer = folders("sbd"), io.BytesIO()
    truth = np.zeros((1, 1), [("Segmentation", object), ("Categories", object)])
    truth[0, 0] = (segmentation, categories)
    try:
        io_of_matlab.savemat(buffer, {name: truth})
    except (TypeError, ValueError):
        return  # SciPy cannot write it
    put(folder / "inst" / "a.mat", buffer.getvalue())
    check(folder, "sbd", f"--classes={','.join(voc.PASCAL_CLASSES)}", "--skip_unknown")
