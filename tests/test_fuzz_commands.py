"""What commands are given and find: -o texts, saved configs, logs, exports and journals with anything wrong in them."""

import functools
import json
import math
import string

import pytest
from fuzz import (
    DEEP_JSON,
    ODD_NUMBERS,
    ODD_TEXTS,
    cases,
    every_change,
    guarded,
    odd_values,
    refusal,
    spoilt,
    spoilt_bytes,
    told,
)
from hypothesis import given
from hypothesis import strategies as st

from data.config import ConfigError, apply_overrides, available_configs, cfg, get_config, make_config
from tools.plot_log import main as plot_main
from utils.config_differences import config_differences, network_differences
from utils.exported import DESCRIPTION, inference_config, load_exported, read_description
from utils.result_journal import NAME, ResultJournal
from utils.runtime import UserError
from utils.training_log import LogError, read_log


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all cases of a test."""
    return tmp_path_factory.mktemp("fuzz")


def key_paths(config, prefix="") -> list:
    paths = []
    for key, value in config.items():
        paths += (
            key_paths(value, f"{prefix}{key}.") if isinstance(value, type(config)) or hasattr(value, "to_dict") else []
        )
        paths.append(prefix + key)
    return paths


KEYS = st.sampled_from(
    [
        *key_paths(get_config("yolact_plus_base")),
        "num_classes",
        "mask_dim",
        "",
        ".",
        "_merge",
        "copy",
        "max_sice",
        "backbone.",
        ".name",
        "dataset.class_names.0",
        "backbone..args",
        "__class__",
        "derived",
    ]
)
LITERALS = st.one_of(
    st.sampled_from(
        (
            *map(repr, ODD_NUMBERS),
            *ODD_TEXTS,
            "0x" + "f" * 5000,
            "-0x" + "f" * 70,
            "1e999",
            "-1e999",
            "9" * 5000,
            "1j",
            "b'a'",
            "...",
            "{1}",
            "{[]: 1}",
            "{'²': 1}",
            "{'1': 2}",
            "{1: 9}",
            "{'a': {'b': 1}}",
            "(" * 300,
            "[" * 90 + "]" * 90,
            "-" * 5000 + "1",
            "[None]",
            "[[1, 2, 3]]",
            "[(None, -2, {})]",
            "()",
            "[]",
            "{}",
            "None",
            "True",
            "'",
            "\\",
            "f'{1}'",
            "x for",
            "lambda: 1",
            "__import__('os').system('true')",
            "[10, {'bbox_alpha': 1}]",
            "1" + "+1" * 3000,
        )
    ),
    odd_values.map(repr),
    st.text(string.printable, max_size=12),
    st.integers(-3, 600).map(str),
    st.floats().map(repr),
)
ASSIGNMENTS = st.lists(
    st.builds(lambda key, text: f"{key}={text}", KEYS, LITERALS) | LITERALS | KEYS, min_size=1, max_size=3
)


def check_config(config):
    """What a config that was taken promises: it prints, is JSON, and gives itself back."""
    assert repr(config)
    values = json.loads(json.dumps(config.to_dict()))
    assert make_config(values).to_dict() == config.copy().to_dict() or values != values or has_nan(values)
    assert all(isinstance(number, int) for number in (config.max_size, config.nms_top_k, config.max_iter))
    assert config_differences(values, config.to_dict()) == [] or has_nan(values)
    assert all(
        difference[1] != difference[2]
        for difference in network_differences(values, get_config("yolact_demo").to_dict())
    )


def has_nan(value) -> bool:
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    return any(map(has_nan, value)) if isinstance(value, list) else isinstance(value, float) and math.isnan(value)


@cases(200)
@given(
    assignments=ASSIGNMENTS, start=st.sampled_from(("yolact_base", "yolact_plus_base", "yolact_demo", "yolact_fcmask"))
)
def test_overrides(assignments, start):
    """They are all taken, or the config stays as it was."""
    cfg.update_in_place(configs()[start])
    before = repr(cfg)
    try:
        with guarded():
            apply_overrides(assignments)
    except ConfigError as error:
        with refusal(ConfigError):
            raise error
        assert repr(cfg) == before
        return
    with guarded():
        check_config(cfg)


FEW_LITERALS = (
    "",
    "0",
    "-1",
    "1000000000",
    "0x" + "f" * 400,
    "1e999",
    "'a'",
    "None",
    "[]",
    "[[]]",
    "[1, [2]]",
    "{'²': 1}",
    "{[]: 1}",
    "(" * 300,
    "1" * 5000,
    "\0",
)


def test_every_key_with_odd_literals():
    """With mask re-scoring on, whose sizes are worked out at once."""
    for key in key_paths(configs()["yolact_plus_base"]):
        for literal in FEW_LITERALS:
            cfg.update_in_place(configs()["yolact_plus_base"])
            with told(f"{key}={literal:.60}"), guarded(), refusal(ConfigError):
                apply_overrides([f"{key}={literal}"])
                assert json.dumps(cfg.to_dict()) and repr(cfg)


def test_every_place_of_a_saved_config():
    few = {"dataset": {"class_names": ("a", "b"), "label_map": {1: 1}}, "backbone": {"pred_aspect_ratios": [[[1, 2]]]}}
    sound = configs()["yolact_plus_base"].copy(few).to_dict()
    for words, saved in every_change(sound):
        if isinstance(saved, dict):
            with told(words), guarded(), refusal(ConfigError):
                assert repr(make_config(saved))


@functools.cache
def configs():
    return {name.rpartition("_config")[0]: config for name, config in available_configs().items()}


@cases(120)
@given(data=st.data(), start=st.sampled_from(("yolact_plus_base", "yolact_demo")))
def test_saved_configs(data, start):
    """Dicts as a checkpoint's .json holds them."""
    saved = data.draw(spoilt(configs()[start].to_dict()).filter(lambda new: isinstance(new, dict)))
    with guarded(), refusal(ConfigError):
        check_config(make_config(saved))


@cases(60)
@given(name=st.sampled_from(ODD_TEXTS) | st.text(max_size=12))
def test_names_of_configs(name):
    with guarded(), refusal(ConfigError):
        check_config(make_config(name))


# --- logs ---


def sound_log() -> list:
    train = [
        {
            "type": "train",
            "session": session,
            "data": {"iter": iteration, "lr": 1e-3, "elapsed": 0.5, "loss": {"B": 1.0, "C": 2.5, "T": 3.5}},
        }
        for session, iterations in ((0, (0, 10, 20)), (1, (10, 20, 30)))
        for iteration in iterations
    ]
    val = {"type": "val", "session": 1, "data": {"iter": 30, "box": {"all": 3.5}, "mask": {"all": 3.0}}}
    return [{"type": "session", "session": 0, "data": {"config": {}}}, *train, val]


@st.composite
def logs(draw):
    """The text of a log with some lines spoilt, garbled or torn."""
    lines = [json.dumps(line) for line in sound_log()]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = draw(spoilt(sound_log()[at]).map(json.dumps) | st.sampled_from(DEEP_JSON) | st.just(lines[at][:30]))
    return draw(st.just("\n".join(lines).encode()) | spoilt_bytes("\n".join(lines).encode()))


def check_log(path, last_session):
    with guarded(), refusal(LogError):
        log = read_log(str(path), last_session)
        columns = [log.learning_rates, log.seconds, *log.losses.values()]
        assert all(len(column) == len(log.iterations) > 0 and column.dtype == float for column in columns)
        assert (log.iterations[1:] > log.iterations[:-1]).all() and log.iterations.dtype.kind == "i"
        assert all(len(column) == len(log.validated) for column in log.precisions.values())
        assert log.session_starts == sorted(set(log.session_starts))
        return log
    return None


@cases(120)
@given(raw=logs(), last_session=st.booleans())
def test_spoilt_logs(folder, raw, last_session):
    (folder / "x.log").write_bytes(raw)
    check_log(folder / "x.log", last_session)


def test_every_place_of_a_log(folder):
    for number in (1, -1):
        for words, line in every_change(sound_log()[number]):
            lines = sound_log()
            lines[number] = line
            (folder / "x.log").write_text("\n".join(map(json.dumps, lines)))
            with told(words):
                check_log(folder / "x.log", last_session=False)


@cases(3)
@given(data=st.data())
def test_spoilt_logs_are_drawn(folder, data):
    """Numbers of all sizes, one kind after the other, in a plot."""
    lines = sound_log()
    for line in lines[1:]:
        odd = data.draw(st.sampled_from(ODD_NUMBERS))
        line["data"].update(
            data.draw(
                st.sampled_from(
                    (
                        {"lr": odd},
                        {"elapsed": odd},
                        {"loss": {"B": odd}},
                        {"iter": odd},
                        {"box": {"all": odd}},
                        {"mask": {"all": odd}},
                    )
                )
            )
        )
    (folder / "x.log").write_text("\n".join(map(json.dumps, lines)))
    with guarded(may_write=True):
        try:
            plot_main([str(folder / "x.log"), "--out", str(folder / "x.png")])
        except SystemExit as end:
            assert end.code in (1, 2) or "training record" in str(end.code)


# --- exports ---


@functools.cache
def sound_description() -> dict:
    model = {
        "input": {"name": "image", "shape": [-1, 3, 96, 96]},
        "outputs": [{"name": "loc"}],
        "onnx": {"model": "network.onnx"},
        "paddle": {"model": "network.json", "weights": "network.pdiparams"},
    }
    files = {name: {"sha256": "0" * 64, "size": 3} for name in ("network.onnx", "network.json", "network.pdiparams")}
    return {
        "format": "yolact-export",
        "format_version": 1,
        "config": inference_config(get_config("yolact_demo")),
        "models": {"network": model},
        "files": files,
    }


@cases(200)
@given(
    content=spoilt(sound_description()) | st.sampled_from(DEEP_JSON),
    raw=st.none() | st.binary(max_size=20),
    backend=st.sampled_from(("auto", "paddle", "onnxruntime")),
)
def test_descriptions_of_exports(folder, content, raw, backend):
    """An export whose files are not those described is refused, whatever the description says."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / DESCRIPTION).write_bytes(text.encode(errors="surrogatepass") if raw is None else raw)
    for name in sound_description()["files"]:
        (folder / name).write_bytes(b"abc")
    with guarded(), refusal(UserError, ConfigError):
        description = read_description(str(folder))
        assert all(isinstance(description[part], dict) for part in ("config", "models", "files"))
        make_config(description["config"])
    with guarded(may_write=True), refusal(UserError, OSError):
        load_exported(str(folder), backend=backend)
        pytest.fail("files of three bytes were loaded")


# --- journals ---

RUN = {"weights": "abc", "config": "def", "images": "ghi", "--top_k": None, "--score_threshold": 0.5}
COUNT = 4


@functools.cache
def sound_journal() -> bytes:
    result = {"image_id": 7, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}
    lines = [json.dumps(RUN)] + [f"{place}\t{json.dumps([result] * place)}\t[]" for place in range(COUNT)]
    return "\n".join([*lines, ""]).encode()


@cases(120)
@given(
    raw=spoilt_bytes(sound_journal())
    | st.binary(max_size=60)
    | spoilt(RUN).map(lambda run: json.dumps(run).encode() + b"\n" + sound_journal().partition(b"\n")[2])
)
def test_journals_are_resumed(folder, raw):
    check_journal(folder, raw)


@pytest.mark.parametrize(
    "line",
    [
        b"9" * 5000 + b"\t[]\t[]\n",
        b"1\t[]\t[]\t[]\n",
        b"1\t[\xff]\t[]\n",
        b"1\t[[[]\t[]\n",
        b"2\t[]\t[]",
        b"\0" * 4096,
        b"1\t" + b"[" * 100_000 + b"]\t[]\n",
        b"-1\t[]\t[]\n",
        b"4\t[]\t[]\n",
        b"0\t[]\t[]\r\n",
    ],
    ids=range(10),
)
def test_lines_behind_a_sound_journal(folder, line):
    check_journal(folder, sound_journal() + line)


def check_journal(folder, raw):
    """What is done can be read, or is told to be damaged; what is not is evaluated again."""
    for path in folder.glob(NAME + "*"):
        path.unlink()
    (folder / f"{NAME}.0").write_bytes(raw)
    with (
        guarded(may_write=True),
        refusal(UserError),
        ResultJournal(str(folder), RUN, COUNT, lambda image_id, found: ([], []), resume=True) as journal,
    ):
        assert journal.done <= set(range(COUNT))
        for place in set(range(COUNT)) - journal.done:
            journal.add(place, 7, None)
        journal.write(str(folder / "bbox.json"), str(folder / "mask.json"))
        for place in range(COUNT):
            bbox, segm = journal.of_place(place)
            assert isinstance(bbox, list) and isinstance(segm, list)
