"""utils/pictures.py: which pictures, where to, and what becomes of one that cannot be read."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from utils.pictures import detect_files, folder_of_pictures

PICTURE = np.full((6, 8, 3), 90, np.uint8)


def targets_of(folder, *names):
    """Where the results of pictures in a folder go, from its "out" on."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    pairs = folder_of_pictures(f"{folder}:{folder / 'out'}")
    assert sorted(source for source, _ in pairs) == sorted(str(folder / name) for name in names)
    return {target[len(str(folder / "out")) + 1:] for _, target in pairs}


def test_names_that_differ_in_case_alone_do_not_overwrite_each_other(tmp_path):
    """On macOS these results would be one file."""
    assert targets_of(tmp_path / "in", "a.jpg", "A.png") == {"a.jpg.png", "A.png.png"}


def test_a_name_that_another_would_get_is_left_to_it(tmp_path):
    assert targets_of(tmp_path / "in", "a.jpg", "a.png", "a.jpg.png") == {"a.jpg.png", "a.png.png", "a.jpg.png.png"}


@pytest.mark.parametrize("others", [False, True])
def test_a_picture_that_cannot_be_read_costs_a_warning_unless_it_is_the_only_one(tmp_path, others, caplog):
    finished, paths = [], [str(tmp_path / "missing.jpg"), str(tmp_path / "there.png")]
    cv2.imwrite(paths[1], PICTURE)
    predictor = SimpleNamespace(detect_many=lambda pictures: [(place, image, None) for place, image in pictures])

    def finish(place, image, found):
        finished.append((place, image is not None))

    if not others:
        with pytest.raises(ValueError, match="missing.jpg cannot be read"):
            detect_files(predictor, paths[:1], [0], finish, bar=False)
    else:
        assert detect_files(predictor, paths, [0, 1], finish, bar=False) == ([1], False)
        assert finished == [(0, False), (1, True)] and "a picture is skipped" in caplog.text
