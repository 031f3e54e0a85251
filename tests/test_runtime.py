"""The process: threads, device, seed, atomic files."""
import argparse
import os
import random
import subprocess
import sys

import numpy as np
import paddle
import pytest

from utils import files, runtime


def _python(code, **environment):
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root,
                            env={**env, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


@pytest.mark.parametrize("word, value", [("True", True), ("yes", True), ("1", True), ("T", True),
                                         ("False", False), ("no", False), ("0", False), ("OFF", False)])
def test_str2bool_words(word, value):
    assert runtime.str2bool(word) is value


def test_str2bool_rejects_other_words():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuda", type=runtime.str2bool)
    with pytest.raises(SystemExit):
        parser.parse_args(["--cuda=maybe"])
    with pytest.raises(argparse.ArgumentTypeError, match="'maybe' is neither"):
        runtime.str2bool("maybe")


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="speaks of the CPU build")
def test_wanted_gpu_that_is_missing_costs_one_warning(caplog):
    assert runtime.select_device(True) == "cpu"
    assert len(caplog.records) == 1 and "requirements-gpu.txt" in caplog.text
    assert paddle.device.get_device() == "cpu"


def test_cpu_is_chosen_silently(caplog):
    assert runtime.select_device(False) == "cpu"
    assert not caplog.records


def test_threads_follow_the_cpus_or_the_user():
    code = "from utils import files, runtime; print(runtime.set_threads(), runtime.available_cpus())"
    threads, cpus = _python(code)[0].split()
    assert threads == cpus
    for wanted in ("3", "1"):
        out, _ = _python(code, OMP_NUM_THREADS=wanted)
        assert out.split()[0] == wanted
    threads, cpus = _python("import paddle\n" + code)[0].split()
    assert threads == cpus


def test_import_is_silent():
    assert _python("from utils import files, runtime") == ("", "")


@pytest.mark.parametrize("content, cpus", [("200000 100000", 2), ("max 100000", None), ("50000 100000", 1),
                                           ("-1 100000", None)])
def test_container_quota(tmp_path, content, cpus):
    (tmp_path / "cpu.max").write_text(content)
    assert runtime._cgroup_cpus(str(tmp_path)) == cpus


def test_container_quota_of_cgroup_v1(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert runtime._cgroup_cpus(str(tmp_path)) == 3


def _draw():
    return random.random(), np.random.rand(), paddle.rand([1]).item()


def test_seed_repeats_every_generator():
    runtime.seed_everything(5)
    first = _draw()
    assert _draw() != first
    runtime.seed_everything(5)
    assert _draw() == first
    runtime.seed_everything(6)
    assert all(a != b for a, b in zip(_draw(), first))


def test_seed_of_an_iteration_does_not_depend_on_the_past():
    runtime.seed_everything(5, iteration=7)
    first = _draw()
    runtime.seed_everything(5, iteration=8)
    assert all(a != b for a, b in zip(_draw(), first))
    runtime.seed_everything(5, iteration=7)
    assert _draw() == first


@pytest.mark.parametrize("kind, good, bad", [
    (runtime.whole_number, {"1": 1, "20": 20}, ["0", "-1", "1.0", "", "x", "\u0664"]),
    (runtime.threshold, {"0.3": 0.3, "-1": -1, "1e-3": 0.001}, ["inf", "-inf", "nan", "", "x"]),
    (runtime.seed_number, {"0": 0, "4294967295": 4294967295}, ["4294967296", "-1", "0.5", "", "x"])])
def test_numbers_of_the_command_line(kind, good, bad):
    for text, value in good.items():
        assert kind(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="is no "):
            kind(text)


def test_peak_memory_is_in_gib():
    assert 0.02 < runtime.peak_memory_gib() < 64


def test_gpu_stats_without_nvidia_smi(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert runtime.gpu_stats() == []


def test_atomic_path_replaces_whole_files(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with files.atomic_path(str(path)) as temporary, open(temporary, "w") as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(KeyboardInterrupt), files.atomic_path(str(path)) as temporary:
        with open(temporary, "w") as file:
            file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["file.txt"]
