"""Where commands read and write. How IN:OUT is split is in test_video.py."""
import os

import pytest

from utils.in_out import check_another, check_writable
from utils.runtime import UserError


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file.*--save_folder"):
        check_writable(str(tmp_path / "file"), "--save_folder")
    check_writable(str(tmp_path / "new" / "folder"), "--save_folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_what_is_read_is_not_overwritten(tmp_path):
    (tmp_path / "in.jpg").write_bytes(b"")
    (tmp_path / "other.jpg").write_bytes(b"")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "in.jpg")
    for target in ("in.jpg", "link.jpg", "./in.jpg"):
        with pytest.raises(UserError, match="would overwrite what is read.*IN:OUT"):
            check_another(str(tmp_path / "in.jpg"), os.path.join(tmp_path, target))
    check_another(str(tmp_path / "in.jpg"), str(tmp_path / "other.jpg"))
    check_another(str(tmp_path / "in.jpg"), str(tmp_path / "new.jpg"))
