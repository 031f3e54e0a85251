"""The README's commands: read by the parsers they are for, the same in both languages and, in `make test-all`, run.

A block that begins with `# needs ...` (a GPU, hours, the network, a screen) is checked as far as its options and config
keys; every other block of sh and python is run, in the README's order, in a copy of the repository.
"""

import argparse
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from data.config import get_config, get_dataset

REPO = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README_cn.md")
BLOCK = re.compile(r"^( *)```(sh|python)\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
# Programs of others, whose options are not ours to check.
OTHERS = {"pip", "sh"}
LONGEST = 1200  # seconds for a block; `make demo` takes some minutes


def blocks(name):
    """[(language, text)] of a README's code blocks, without their indentation."""
    text = (REPO / name).read_text(encoding="utf-8")
    return [(language, re.sub(f"^{indent}", "", body, flags=re.MULTILINE)) for indent, language, body in
            BLOCK.findall(text)]


def commands(text):
    """The words of each command of a shell block, comments and line breaks gone."""
    text = text.replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in found if words]


def needs(text):
    """What a block says that it needs, or None if it runs anywhere."""
    found = re.match(r"# needs (.+)\n", text)
    return found and found[1]


BLOCKS = blocks("README.md")
SHELL = [text for language, text in BLOCKS if language == "sh"]
RUN = [(language, text) for language, text in BLOCKS if not needs(text)]


class Parsed(Exception):
    """Ends a command once its options are read; carries them."""


@pytest.fixture
def options_of(monkeypatch):
    """Reads a Python command as its own parser does, without running it: argv -> namespace."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise Parsed(parse(self, args, namespace))

    def read(words):
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(Parsed) as found:
            runpy.run_path(str(REPO / words[0]), run_name="__main__")
        return found.value.args[0]

    return read


def python_command(words):
    """The script and its arguments of a command that runs Python, with the launcher or without; None of others."""
    if words[0] != "python":
        return None
    return words[next(place for place, word in enumerate(words) if word.endswith(".py")):]


@pytest.mark.parametrize("text", SHELL)
def test_every_command_is_one_that_there_is(text, options_of):
    for words in commands(text):
        script = python_command(words)
        if script is not None:
            options = options_of(script)
            config = get_config(options.config) if getattr(options, "config", None) else get_config("yolact_base")
            config.parse_overrides(getattr(options, "override", []))
            if getattr(options, "dataset", None):
                get_dataset(options.dataset)
        elif words[0] == "make":
            done = subprocess.run([*words, "-n"], cwd=REPO, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            assert words[0] in OTHERS, words
            for word in words[1:]:
                if re.fullmatch(r"(requirements.*\.txt|data/scripts/.*)", word):
                    assert (REPO / word).exists(), word


def test_both_languages_give_the_same_commands():
    assert [(language, commands(text) if language == "sh" else None) for language, text in blocks(READMES[0])] == \
        [(language, commands(text) if language == "sh" else None) for language, text in blocks(READMES[1])]
    assert [needs(text) is None for _, text in blocks(READMES[0])] == [
        needs(text) is None for _, text in blocks(READMES[1])]
    for (_, ours), (language, theirs) in zip(*map(blocks, READMES)):
        if language == "python":
            without_comments = [re.sub(r"\s*#.*", "", text) for text in (ours, theirs)]
            assert without_comments[0] == without_comments[1]


def test_some_blocks_run_and_some_say_what_they_need():
    assert len(RUN) >= 8 and any(map(needs, SHELL)), "the blocks or their marks were not found"


# --- running them -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A copy of the repository with what the README's commands take: weights, pictures, a video, a little COCO."""
    folder = tmp_path_factory.mktemp("readme") / "yolact"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO,
                            capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (REPO / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    # The environment of `make venv`, made already: the interpreter that runs this test.
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    pip = programs / "pip"
    pip.write_text("#!/bin/sh\nexit 0\n")  # what the environment has is what is tested
    pip.chmod(0o755)
    for stamp in ("made", "installed.requirements.txt", "installed.requirements-dev.txt"):
        (folder / ".venv" / stamp).touch()
    prepare(folder)
    return folder


def prepare(folder):
    """Random weights under a released network's name, drawn pictures in the places that the README names."""
    code = ("import paddle\n"
            "from data.config import get_config\n"
            "from yolact import Yolact\n"
            "paddle.seed(0)\n"
            "paddle.save(Yolact(get_config('yolact_base')).state_dict(), 'random.pdparams')\n")
    released = "weights/yolact_base_54_800000.pth"
    convert = ["tools/convert_weights.py", "random.pdparams", released, "--config=yolact_base"]
    draw = ["tools/make_demo_data.py", "--out", "drawn", "--train=8", "--val=4", "--size=128"]
    for arguments in (["-c", code], convert, draw):
        subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    pictures = sorted((folder / "drawn" / "val").glob("*.jpg"))
    (folder / "in_dir").mkdir()
    for picture in pictures[:3]:
        shutil.copy(picture, folder / "in_dir")
    shutil.copy(pictures[0], folder / "in.jpg")
    video = cv2.VideoWriter(str(folder / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (128, 128))
    for picture in pictures:
        video.write(cv2.imread(str(picture)))
    video.release()
    coco = folder / "data" / "coco"
    shutil.copytree(folder / "drawn" / "val", coco / "images")
    (coco / "annotations").mkdir()
    for split in ("train", "val"):
        text = (folder / "drawn" / "annotations" / "instances_val.json").read_text()
        for number, (drawn, name) in enumerate((("circle", "person"), ("square", "bicycle"), ("triangle", "car")), 1):
            text = text.replace(f'"id": {number}, "name": "{drawn}"', f'"id": {number}, "name": "{name}"')
        (coco / "annotations" / f"instances_{split}2017.json").write_text(text)
        (coco / "annotations" / "image_info_test-dev2017.json").write_text(
            re.sub(r'"annotations": \[.*?\], "categories"', '"categories"', text))
    shutil.rmtree(folder / "drawn")


@pytest.mark.long
@pytest.mark.parametrize(("language", "text"), RUN)
def test_the_block_runs(language, text, workspace):
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHONPATH", "OMP_NUM_THREADS") and not name.startswith("COVERAGE_")}
    environment["PATH"] = f"{workspace / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    text = re.sub("^make test .*", "", text, flags=re.MULTILINE)  # that is what runs this
    program = ["bash", "-euo", "pipefail", "-c", text] if language == "sh" else ["python", "-c", text]
    done = subprocess.run(program, cwd=workspace, env=environment, capture_output=True, text=True, timeout=LONGEST)
    print(done.stdout[-3000:])
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
