"""COCO's download with small zips from a server on the loopback, as a user runs it."""
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from data.config import dataset_base, get_config
from tools import download_coco as tool
from tools.download_coco import ARCHIVES, Archive

REPO = Path(__file__).resolve().parent.parent
CONTENTS = {
    "zips/train2017.zip": {"train2017/": None, "train2017/01.jpg": b"one" * 5000, "train2017/02.jpg": b"two" * 40},
    "zips/val2017.zip": {"val2017/03.jpg": b"three" * 300},
    "zips/test2017.zip": {"test2017/04.jpg": b"four" * 9},
    "annotations/annotations_trainval2017.zip": {"annotations/instances_train2017.json": b"[1]",
                                                 "annotations/instances_val2017.json": b"[2, 2]"},
    "annotations/image_info_test2017.zip": {"annotations/image_info_test-dev2017.json": b"{}"},
}
PICTURES = {"images/01.jpg": b"one" * 5000, "images/02.jpg": b"two" * 40, "images/03.jpg": b"three" * 300}
FILES = {**PICTURES, "annotations/instances_train2017.json": b"[1]", "annotations/instances_val2017.json": b"[2, 2]"}


def make_zip(members):
    """A zip file's bytes, not compressed as COCO's pictures, from {name: content; None for a folder}."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content or b"")
    return file.getvalue()


def offer(server, monkeypatch, **changed):
    """Let the server hand out small zips, and the tool expect them; `changed` has bytes by the zip's name."""
    zips = {path: changed.get(Path(path).stem, make_zip(members)) for path, members in CONTENTS.items()}
    server.files = {f"/{path}": data for path, data in zips.items()}
    monkeypatch.setattr(tool, "ARCHIVES", {
        part: [Archive(archive.path, len(zips[archive.path]), hashlib.md5(zips[archive.path]).hexdigest(), 20_000)
               for archive in archives] for part, archives in ARCHIVES.items()})
    return zips


@pytest.fixture
def coco(server, monkeypatch, tmp_path):
    """A function that runs the command for a folder, where the server has small zips."""
    offer(server, monkeypatch)

    def run(*arguments):
        tool.main([*arguments, f"--folder={tmp_path / 'coco'}", f"--mirror={server.address}/"])

    run.folder = tmp_path / "coco"
    return run


def tree(folder):
    """{path: content} of all files but the records of what was unpacked."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and not path.name.endswith(".unpacked.json")}


def fails(coco, *arguments):
    """The one line that a run ends with."""
    with pytest.raises(SystemExit) as error:
        coco(*arguments)
    message = str(error.value.code)
    assert message.startswith("download_coco.py: error: ") and "\n" not in message
    return message


def put_by_hand(coco, name, data):
    (coco.folder / "zips").mkdir(parents=True, exist_ok=True)
    (coco.folder / "zips" / name).write_bytes(data)
    return coco.folder / "zips" / name


def test_pictures_annotations_and_no_zips(coco, server, capfd):
    coco()
    assert tree(coco.folder) == FILES
    assert [path for path, _ in server.seen] == [
        "/zips/train2017.zip", "/zips/val2017.zip", "/annotations/annotations_trainval2017.zip"]
    out, bars = capfd.readouterr()
    assert out == f"train2017.zip, val2017.zip, annotations_trainval2017.zip: everything is in {coco.folder}\n"
    assert "unpacking train2017.zip: 100%" in bars


def test_a_second_run_has_nothing_to_do(coco, server, capsys):
    coco("val")
    before = server.seen.copy()
    capsys.readouterr()
    coco("val")
    assert server.seen == before
    assert capsys.readouterr() == (f"val2017.zip: everything is in {coco.folder} already\n", "")


def test_parts_in_any_order_and_twice_are_fetched_once(coco, server):
    coco("test", "val", "test")
    assert [path for path, _ in server.seen] == [
        "/zips/val2017.zip", "/zips/test2017.zip", "/annotations/image_info_test2017.zip"]
    assert set(tree(coco.folder)) == {"images/03.jpg", "images/04.jpg", "annotations/image_info_test-dev2017.json"}


@pytest.mark.parametrize("record", ["", "{", "[1]", "null"])
def test_a_record_that_is_damaged_counts_as_none(coco, server, record):
    coco("val")
    (coco.folder / "zips" / "val2017.zip.unpacked.json").write_text(record)
    coco("val")
    assert len(server.seen) == 2 and tree(coco.folder) == {"images/03.jpg": PICTURES["images/03.jpg"]}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_picture_that_is_lost_comes_back(coco, server, damage):
    coco("train")
    damage(coco.folder / "images" / "02.jpg")
    coco("train")
    assert len(server.seen) == 2 and (coco.folder / "images" / "02.jpg").read_bytes() == b"two" * 40


def test_a_cut_download_continues_with_the_next_run(coco, server, monkeypatch):
    server.script = [("cut", 1000)]
    with monkeypatch.context() as patch:
        patch.setattr("utils.download.PAUSES", ())
        message = fails(coco)
    assert "the same command goes on from there" in message
    coco()
    assert [asked for _, asked in server.seen[:2]] == [None, "bytes=1000-"]
    assert tree(coco.folder) == FILES


def test_a_wrong_checksum(coco, server):
    server.files["/zips/val2017.zip"] = make_zip({"val2017/03.jpg": b"THREE" * 300})
    message = fails(coco, "val")
    assert "has the md5" in message and "was deleted" in message and "--mirror" in message
    assert tree(coco.folder) == {}


def test_too_little_space_is_told_before_the_first_byte(coco, server, monkeypatch):
    monkeypatch.setattr(tool, "ARCHIVES", ARCHIVES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 39_100_000_000))
    message = fails(coco)
    assert f"39.1 GB are needed in {coco.folder}, and 39.1 GB are free" in message and "--folder" in message
    assert server.seen == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 39_200_000_000))
    server.script = [("status", 404)]
    assert "answers 404" in fails(coco)
    assert "41.9 GB are needed" in fails(coco, "--keep_zips")


def test_space_for_what_is_not_there_yet(tmp_path):
    data = make_zip(CONTENTS["zips/train2017.zip"])
    first, second = (Archive(f"zips/{name}.zip", len(data), "", 50_000) for name in "ab")
    folder, size = str(tmp_path), len(data)

    def needed(keep_zips=False):
        return tool.space_needed(folder, [first, second], keep_zips)

    assert needed() == 50_000 + size + 50_000  # the first zip has gone when the second comes
    assert needed(keep_zips=True) == 2 * (50_000 + size)
    (tmp_path / "zips").mkdir()
    part = tmp_path / "zips" / "a.zip.part"
    part.write_bytes(data[:1000])
    assert needed(keep_zips=True) == 2 * (50_000 + size) - 1000
    part.rename(tmp_path / "zips" / "a.zip").write_bytes(data)
    assert needed(keep_zips=True) == 15_120 + size + 50_000  # now that the zip tells what is in it
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "01.jpg").write_bytes(b"one" * 5000)
    assert needed(keep_zips=True) == 120 + size + 50_000


def test_a_host_that_does_not_answer(coco, server):
    put_by_hand(coco, "val2017.zip", server.files["/zips/val2017.zip"])
    server.shutdown()
    server.server_close()
    message = fails(coco)
    assert "cannot reach 127.0.0.1" in message and "--mirror" in message and "the same command goes on" in message
    assert f"download {server.address}/zips/train2017.zip by hand and put it at {coco.folder}/zips/train" in message
    assert f"(then {server.address}/annotations/annotations_trainval2017.zip beside it)" in message


def test_a_zip_put_by_hand_is_verified_used_and_then_deleted(coco, server):
    for name in ("train2017.zip", "val2017.zip"):
        put_by_hand(coco, name, server.files[f"/zips/{name}"])
    put_by_hand(coco, "train2017.zip.part", b"what an earlier run fetched")
    coco("train", "val")
    assert server.seen == [] and tree(coco.folder) == PICTURES


def test_zips_can_be_kept(coco, server):
    coco("val", "--keep_zips")
    data = server.files["/zips/val2017.zip"]
    assert tree(coco.folder) == {"images/03.jpg": PICTURES["images/03.jpg"], "zips/val2017.zip": data}


@pytest.mark.parametrize("data, problem", [
    (b"half", r"val2017.zip has 4 bytes instead of \d+: finish its download"),
    (b"x" * len(make_zip(CONTENTS["zips/val2017.zip"])), r"val2017.zip has the md5 \w+ instead of \w+: delete it")])
def test_another_zip_put_by_hand_is_told_and_left(coco, server, data, problem):
    path = put_by_hand(coco, "val2017.zip", data)
    assert re.search(problem, fails(coco))  # before the other parts are fetched
    assert path.read_bytes() == data and server.seen == []


def test_interrupted_unpacking_continues(coco, server, monkeypatch):
    real, calls = shutil.copyfileobj, []

    def interrupted(source, file):
        calls.append(file.name)
        if len(calls) == 2:
            file.write(b"half of the second")
            raise KeyboardInterrupt
        real(source, file)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ending:
        patch.setattr(shutil, "copyfileobj", interrupted)
        coco("train")
    assert ending.value.code == 130
    assert set(tree(coco.folder)) == {"images/01.jpg", "zips/train2017.zip"}
    first = coco.folder / "images" / "01.jpg"
    os.utime(first, (1, 1))
    (coco.folder / "images" / "02.jpg").write_bytes(b"of another size")
    coco("train")
    assert first.stat().st_mtime == 1 and len(server.seen) == 1
    assert tree(coco.folder) == {name: PICTURES[name] for name in ("images/01.jpg", "images/02.jpg")}


def test_a_zip_that_is_damaged_on_the_disk_is_named(coco, server, monkeypatch):
    data = make_zip(CONTENTS["zips/val2017.zip"])
    offer(server, monkeypatch, val2017=data.replace(b"threethree", b"threeTHREE", 1))
    message = fails(coco, "val")
    path = coco.folder / "zips" / "val2017.zip"
    assert f"{path} is damaged (Bad CRC-32" in message and "delete it and run the same command again" in message
    assert set(tree(coco.folder)) == {"zips/val2017.zip"}


def test_names_that_lead_out_of_the_folder_are_not_unpacked(coco, server, monkeypatch):
    evil = ["../../evil.jpg", "/evil.jpg", "images/../../evil.jpg", "val2017/..", "val2017/evil.sh", "evil.jpg",
            "val2017/a/b.jpg", "val2017\\evil.jpg", "val2017/.jpg"]
    offer(server, monkeypatch, val2017=make_zip({**dict.fromkeys(evil, b"evil"), "val2017/03.jpg": b"good"}))
    coco("val")
    assert tree(coco.folder.parent) == {"coco/images/03.jpg": b"good"}
    assert json.loads((coco.folder / "zips" / "val2017.zip.unpacked.json").read_text()) == {"images/03.jpg": 4}


@pytest.mark.parametrize("arguments, problem", [(["trian"], "no part 'trian'; choose from train, val, test"),
                                                (["val", "--mirror=example.org"], "'example.org' is no address")])
def test_mistyped_arguments(arguments, problem, capsys):
    with pytest.raises(SystemExit) as ending:
        tool.main(arguments)
    assert ending.value.code == 2 and problem in capsys.readouterr().err


def test_the_configs_find_it_where_it_goes():
    assert tool.parse_args([]).folder == "data/coco"
    wanted = get_config("yolact_base").dataset
    assert Path(dataset_base.valid_images) == Path("data/coco", tool.FOLDERS["jpg"])
    for path in (wanted.train_info, wanted.valid_info):
        assert Path(path).parent == Path("data/coco", tool.FOLDERS["json"])


@pytest.fixture
def script(server, monkeypatch, tmp_path):
    """A function that starts one of data/scripts with a Python whose tool expects the server's small zips."""
    offer(server, monkeypatch)
    python = tmp_path / "python"
    python.write_text(f"""#!{sys.executable}
import os, signal, sys
assert sys.argv[1] == "tools/download_coco.py" and os.path.exists(sys.argv[1])
sys.path.insert(0, "")
from tools import download_coco as tool
from tools.download_coco import Archive
tool.ARCHIVES = {tool.ARCHIVES!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background
tool.main(sys.argv[2:])
""")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def start(name, *arguments, by=REPO):
        return subprocess.Popen(["sh", os.path.relpath(REPO / "data" / "scripts" / name, by), *arguments],
                                cwd=by, env={**os.environ, "PYTHON": str(python), "OMP_NUM_THREADS": "1"}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.mark.parametrize("name, files", [
    ("COCO.sh", set(FILES)), ("COCO_test.sh", {"images/04.jpg", "annotations/image_info_test-dev2017.json"})])
def test_the_scripts_run_the_tool_from_any_folder(script, server, tmp_path, name, files):
    started = script(name, f"--folder={tmp_path / 'my coco'}", f"--mirror={server.address}", by=tmp_path)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    assert "everything is in" in out and set(tree(tmp_path / "my coco")) == files
    assert os.access(REPO / "data" / "scripts" / name, os.X_OK)


def test_ctrl_c_keeps_what_was_fetched(script, server, tmp_path):
    server.script = [("wait", 12_000)]
    arguments = ("COCO.sh", "train", f"--folder={tmp_path / 'coco'}", f"--mirror={server.address}")
    started = script(*arguments)
    assert server.reached.wait(60)
    part, deadline = tmp_path / "coco" / "zips" / "train2017.zip.part", time.monotonic() + 5
    while part.stat().st_size < 12_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    assert "interrupted; the same command goes on from here" in started.communicate(timeout=20)[1]
    assert started.returncode == 130 and part.stat().st_size == 12_000
    again = script(*arguments)
    assert again.communicate(timeout=60) and again.returncode == 0
    assert [asked for _, asked in server.seen] == [None, "bytes=12000-"]
