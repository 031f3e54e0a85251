"""Results on disk while they are made: files in order, going on after a kill at any byte, archives, the web viewer."""

import json
import random
import shutil
import zipfile

import numpy as np
import pytest
from pycocotools.coco import COCO

from utils.coco_results import CocoFormat, CocoResults
from utils.eval_outputs import archive_name, check_outputs, write_web_json, write_zip
from utils.instances import Instances
from utils.result_journal import ResultJournal, journals, open_journal, run_of
from utils.runtime import UserError

LABEL_MAP = {3: 1, 7: 2}
IDS = [30, 10, 20, 50, 40]
RUN = {"weights": "abc", "--top_k": None, "--score_threshold": 0.5}


def found_in(image_id, has_masks=True):
    """Instances that depend on the image id; none for 20."""
    drawn = np.random.RandomState(image_id)
    count = 0 if image_id == 20 else 3
    boxes = np.sort(drawn.randint(0, 50, (count, 2, 2)), axis=1).reshape(-1, 4)
    masks = drawn.rand(count, 50, 60) > 0.5 if has_masks else None
    return Instances(drawn.randint(0, 2, count), drawn.rand(count).astype("float32"), boxes, masks, ["a", "b"], 50, 60)


def journal_in(folder, run=RUN, resume=False, rank=0, has_masks=True):
    folder.mkdir(exist_ok=True)
    return ResultJournal(str(folder), run, len(IDS), CocoFormat(LABEL_MAP), has_masks, rank, resume)


def fill(journal, places, has_masks=True):
    for place in places:
        journal.add(place, IDS[place], None if IDS[place] == 40 else found_in(IDS[place], has_masks))


def in_memory():
    results = CocoResults(LABEL_MAP)
    for place, image_id in enumerate(IDS):
        results.add(place, image_id, None if image_id == 40 else found_in(image_id))
    return results


def written(journal, folder):
    files = [folder / "new" / "bbox.json", folder / "new" / "mask.json"]
    journal.write(*map(str, files))
    return [json.loads(path.read_text()) for path in files]


def test_files_hold_what_was_added_in_the_order_of_evaluation(tmp_path):
    expected = in_memory()
    with journal_in(tmp_path / "a") as journal:
        fill(journal, [3, 0, 4, 2, 1])
        assert written(journal, tmp_path) == list(expected.lists().values())
        assert journal.lists() == expected.lists()
        assert journal.of_place(2) == ([], []) and journal.of_place(0) == expected.of_place(0)
        journal.remove()
    assert journals(str(tmp_path / "a")) == [] and len(expected.lists()["bbox"]) > 6
    text = (tmp_path / "new" / "bbox.json").read_text()
    assert text == json.dumps(expected.lists()["bbox"], separators=(",", ":"))
    truth = COCO()
    truth.dataset = {"images": [{"id": number} for number in IDS], "categories": [{"id": 3}, {"id": 7}],
                     "annotations": []}
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "new" / "mask.json")).anns) == len(expected.lists()["segm"])


def test_nothing_found_is_an_empty_list(tmp_path):
    with journal_in(tmp_path / "a") as journal:
        for place, image_id in enumerate(IDS):
            journal.add(place, image_id, None)
        assert written(journal, tmp_path) == [[], []]


def test_boxes_only(tmp_path):
    with journal_in(tmp_path / "a", has_masks=False) as journal:
        fill(journal, range(5), has_masks=False)
        journal.write(str(tmp_path / "bbox.json"))
        assert list(journal.lists()) == ["bbox"] and len(journal.lists()["bbox"]) > 0
        assert json.loads((tmp_path / "bbox.json").read_text()) == journal.lists()["bbox"]


def test_a_kill_at_any_byte_loses_only_the_image_in_hand(tmp_path):
    expected = in_memory()
    with journal_in(tmp_path / "whole") as journal:
        fill(journal, range(5))
    content = (tmp_path / "whole" / "detections.partial.0").read_bytes()
    draw = random.Random(0)
    for cut in [0, 5, len(content) - 1, *(draw.randrange(len(content)) for _ in range(40))]:
        folder = tmp_path / "cut"
        folder.mkdir()
        (folder / "detections.partial.0").write_bytes(content[:cut])
        with journal_in(folder, resume=True) as journal:
            assert len(journal.done) == max(0, content[:cut].count(b"\n") - 1)
            fill(journal, [place for place in range(5) if place not in journal.done])
            assert written(journal, tmp_path) == list(expected.lists().values()), cut
        shutil.rmtree(folder)


def test_another_number_of_processes_goes_on(tmp_path):
    expected = in_memory()
    parts = [journal_in(tmp_path / "a", rank=rank) for rank in range(3)]
    fill(parts[0], [0]), fill(parts[1], [1]), fill(parts[2], [2])
    for part in parts:
        part.close()
    with open(tmp_path / "a" / "detections.partial.2", "ab") as file:
        file.write(b"4\t[{")  # torn, of a process that is not there any more
    with journal_in(tmp_path / "a", resume=True) as journal:
        assert journal.done == {0, 1, 2}
        fill(journal, [3, 4])
        assert written(journal, tmp_path) == list(expected.lists().values())
        journal.remove()
    assert list((tmp_path / "a").iterdir()) == []


def test_an_image_in_no_journal_is_an_error(tmp_path):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, [0, 1, 2, 4])
        with pytest.raises(UserError, match="image 3 of 5.*--output_folder"):
            journal.write(str(tmp_path / "bbox.json"))
    assert not (tmp_path / "bbox.json").exists()


def test_another_run_is_not_continued(tmp_path):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, [0])
    with pytest.raises(UserError, match=r"--top_k=None \(now 5\).*same options"):
        journal_in(tmp_path / "a", run={**RUN, "--top_k": 5}, resume=True)
    with journal_in(tmp_path / "a", resume=True) as journal:
        assert journal.done == {0}


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, [0])
        for resume in (True, False):
            with pytest.raises(UserError, match="another eval.py is writing into .*--output_folder"):
                open_journal(str(tmp_path / "a"), RUN, len(IDS), CocoFormat(LABEL_MAP), True, resume)
        fill(journal, range(1, 5))
        assert written(journal, tmp_path) == list(in_memory().lists().values())


@pytest.mark.parametrize("content", [b"hello world\nfoo\n", b"[1]\n0\t[]\t[]\n"])
def test_a_file_that_is_no_journal_is_told(tmp_path, content):
    (tmp_path / "detections.partial.0").write_bytes(content)
    with pytest.raises(UserError, match="no journal of eval.py"):
        journal_in(tmp_path, resume=True)


@pytest.mark.parametrize("line", [b"foo\n", b"\0\0\0\0\n", b"999\t[]\t[]\n", b"-1\t[]\t[]\n", b"1\t[]\n", b"1\t[\t]\n"])
def test_lines_that_do_not_fit_cost_no_more_than_their_image(tmp_path, line):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, [0])
    with open(tmp_path / "a" / "detections.partial.0", "ab") as file:
        file.write(line)
    with journal_in(tmp_path / "a", resume=True) as journal:
        assert journal.done == {0}
        fill(journal, range(1, 5))
        assert written(journal, tmp_path) == list(in_memory().lists().values())


def test_damage_inside_a_line_is_told(tmp_path):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, range(4))
    with open(tmp_path / "a" / "detections.partial.0", "ab") as file:
        file.write(b"4\t[{]\t[]\n")
    with journal_in(tmp_path / "a", resume=True) as journal, pytest.raises(UserError, match="damaged .* begin anew"):
        journal.lists()


def test_what_is_left_after_an_error_is_told(tmp_path, caplog):
    with pytest.raises(RuntimeError), journal_in(tmp_path) as journal:
        fill(journal, [0])
        raise RuntimeError
    assert "the same command with --resume goes on" in caplog.text and len(journals(str(tmp_path))) == 1


def test_an_error_before_the_first_image_leaves_nothing(tmp_path, caplog):
    with pytest.raises(RuntimeError), journal_in(tmp_path):
        raise RuntimeError
    assert not caplog.text and list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    new = tmp_path / "new" / "x.json"
    for paths, words in [([new, tmp_path / "new" / ".." / "new" / "x.json"], "two kinds"),
                         ([tmp_path / "folder"], "is a folder"), ([tmp_path / "file" / "x.json"], "place for x.json")]:
        with pytest.raises(UserError, match=words):
            check_outputs([str(path) for path in paths])
    check_outputs([str(new), str(tmp_path / "y.json")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "new"]


def test_open_journal_begins_anew_or_goes_on_and_says_so(tmp_path, caplog):
    def opened(resume):
        return open_journal(str(tmp_path), RUN, len(IDS), CocoFormat(LABEL_MAP), True, resume)

    with opened(True) as journal:
        assert not journal.done and "no interrupted run" in caplog.text
        fill(journal, [0, 1])
    with opened(True) as journal:
        assert journal.done == {0, 1}
    assert "begins anew" not in caplog.text
    with opened(False) as journal:
        assert not journal.done and "begins anew" in caplog.text
        journal.add(4, IDS[4], None)
    with opened(True) as journal:
        assert journal.done == {4}


def test_a_run_is_told_by_weights_config_images_and_options(tmp_path):
    weights = tmp_path / "w"
    weights.write_bytes(b"1")
    arguments = {"path": str(weights), "config": {"a": 1}, "images": [1, 2], "options": {"--top_k": 1}}
    first = run_of(**arguments)
    assert first == run_of(**arguments) == json.loads(json.dumps(first))
    for change in ({"config": {"a": 2}}, {"images": [2, 1]}, {"options": {"--top_k": 2}}):
        assert run_of(**{**arguments, **change}) != first
    weights.write_bytes(b"2")
    assert run_of(**arguments) != first


@pytest.mark.parametrize("info_file, expected", [
    ("a/image_info_test-dev2017.json", "test-dev2017"), ("instances_val2017.json", "val2017"),
    ("image_info_test2015.json", "test2015"), ("my.json", "test-dev2017")])
def test_the_archive_is_called_as_the_server_wants_it(tmp_path, info_file, expected):
    (tmp_path / "mask.json").write_text("[1]")
    name = archive_name(info_file, "my net_v2")
    assert name == f"detections_{expected}_my-net-v2_results.zip"
    write_zip(str(tmp_path / name), str(tmp_path / "mask.json"))
    with zipfile.ZipFile(str(tmp_path / name)) as archive:
        assert archive.namelist() == [f"detections_{expected}_my-net-v2_results.json"]
        assert archive.read(archive.namelist()[0]) == b"[1]"


@pytest.mark.parametrize("has_masks", [True, False])
def test_the_web_viewers_file(tmp_path, has_masks):
    with journal_in(tmp_path / "a") as journal:
        fill(journal, range(5), has_masks)
        write_web_json(str(tmp_path / "web" / "x.json"), journal, IDS, {3: "fish", 7: "crab"}, {"name": "x"})
        content = json.loads((tmp_path / "web" / "x.json").read_text())
        assert content["info"] == {"Config": {"name": "x"}}
        assert [image["image_id"] for image in content["images"]] == sorted(IDS)
        bbox, segm = journal.of_place(IDS.index(50))
    dets = content["images"][-1]["dets"]
    assert [det["bbox"] for det in dets] == [entry["bbox"] for entry in bbox]
    assert [det["category"] for det in dets] == [{3: "fish", 7: "crab"}[entry["category_id"]] for entry in bbox]
    assert [det.get("mask") for det in dets] == [entry["segmentation"] for entry in segm] or [None] * len(dets)
