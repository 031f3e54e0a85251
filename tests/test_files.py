"""utils/files.py: what killed processes leave behind."""
import os
import subprocess
import sys

import pytest

from utils.files import atomic_folder, atomic_path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there nothing is known of other processes")


@pytest.fixture
def dead():
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def write(path):
    with atomic_path(path) as temporary, open(temporary, "w") as file:
        file.write("new")


def test_files_that_killed_processes_left_are_removed(tmp_path, dead):
    alive, parent = os.getpid(), os.getppid()
    kept = {f"a.txt.{parent}.tmp", f"b.txt.{dead}.tmp", f"a.txt.{dead}.old", "a.txt.tmp", "a.txt.x.tmp",
            f"a.txt.{10 ** 30}.tmp"}
    for name in {*kept, f"a.txt.{dead}.tmp", f"a.txt.{alive}.tmp"}:
        (tmp_path / name).write_text("half")
    write(tmp_path / "a.txt")
    assert set(os.listdir(tmp_path)) == {*kept, "a.txt"} and (tmp_path / "a.txt").read_text() == "new"
    write(tmp_path / "b.txt")
    assert f"b.txt.{dead}.tmp" not in os.listdir(tmp_path)


def test_a_relative_path_is_cleaned_as_well(tmp_path, dead, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"a.txt.{dead}.tmp").write_text("half")
    write("a.txt")
    assert os.listdir() == ["a.txt"]


def test_folders_that_killed_processes_left_are_removed(tmp_path, dead):
    kept = {f".out.{os.getppid()}.tmp", f".other.{dead}.tmp"}
    for name in {*kept, f".out.{dead}.tmp", f".out.{os.getpid()}.tmp"}:
        (tmp_path / name / "inner").mkdir(parents=True)
    with atomic_folder(tmp_path / "out") as folder:
        assert not os.listdir(folder)
    assert set(os.listdir(tmp_path)) == {*kept, "out"}


def test_the_folder_is_looked_through_once_only(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(os, "listdir", lambda path, look=os.listdir: looks.append(path) or look(path))
    for number in range(5):
        write(tmp_path / f"{number}.png")
    assert looks == [str(tmp_path)]


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_bytes(b"")
    rename = os.rename

    def fail(source, target):
        if source.endswith(".tmp"):
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"), atomic_folder(str(tmp_path / "out")):
        pass
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["old"]


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with atomic_folder(str(tmp_path / "link")) as folder, open(os.path.join(folder, "new"), "wb"):
        pass
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "there") == ["new"]


def test_an_empty_name_does_not_mean_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "precious").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileNotFoundError, match="give it one"), atomic_folder(""):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "precious"]
