"""A training killed over and over, some of the times while it writes a checkpoint, ends as one that never was."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from cli_runs import REPO, batches_per_epoch, checkpoint_state, records, stem_of, train_arguments

KILLS, ITERATIONS = 24, 150

# A process that has imported everything starts the trainings by fork, which takes no time, and kills them: at a random
# moment from outside, or, every second time, from inside at a random one of the calls that bring a checkpoint to disk.
KILLER = """
import json, os, random, signal, sys, time
sys.path[:0] = [sys.argv[1]]
import train
from utils import checkpoint, checkpoint_files
arguments, kills, out = json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
random.seed(1)

def die_in_the_write():
    left = random.randint(1, 9)
    places = ((checkpoint, "sync_to_disk"), (checkpoint, "remove_files"), (checkpoint_files, "remove_files"))
    for module, name in places:
        def counted(*given, real=getattr(module, name)):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)
        setattr(module, name, counted)

def start(inside):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        if inside:
            die_in_the_write()
        try:
            train.main(arguments)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

counts = {"outside": 0, "inside": 0, "torn": 0}
while counts["outside"] + counts["inside"] < kills:
    inside = random.random() < 0.5
    child = start(inside)
    if not inside:
        time.sleep(random.uniform(0.3, 1.0))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "a training failed"
        break  # it came to its end before it could be killed
    counts["inside" if inside else "outside"] += 1
    folder = [a.partition("=")[2] for a in arguments if a.startswith("--save_folder")][0]
    counts["torn"] += any(name.endswith(".tmp") for name in os.listdir(folder) if os.path.isdir(folder))
status = os.waitpid(start(False), 0)[1]
assert status == 0, "the last training failed"
json.dump(counts, open(out, "w"))
"""


def train_with_kills(arguments, kills):
    """Run a training to its end over so many kills; returns how many were of which kind.

    In a process of its own, also without kills: the number of threads decides how sums are rounded.
    """
    folder = Path(next(word.partition("=")[2] for word in map(str, arguments) if str(word).startswith("--save_folder")))
    folder.mkdir(parents=True)
    out = folder / "counts.json"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(REPO), json.dumps([str(word) for word in arguments]), str(kills), str(out)],
        env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(out.read_text())


def test_a_training_killed_many_times_is_bit_equal_to_one_that_was_not(demo_data, tmp_path):
    """With two workers, augmentation, epochs' ends and steps of the learning rate."""
    options = ["--num_workers=2", "--save_interval=1", "--keep_latest", "--resume=latest"]
    overrides = [f"max_iter={ITERATIONS}", "lr_schedule='step'", "lr_steps=[30, 80]", "lr_warmup_until=5",
                 "augment_photometric_distort=True", "augment_expand=True", "augment_random_sample_crop=True"]
    straight, killed = (tmp_path / name for name in ("straight", "killed"))
    train_with_kills(train_arguments(demo_data, straight, *options, overrides=overrides), 0)
    counts = train_with_kills(train_arguments(demo_data, killed, *options, overrides=overrides), KILLS)
    assert counts["outside"] + counts["inside"] >= 20 and counts["inside"] >= 5 and counts["torn"] >= 1, counts

    expected = {record["data"]["iter"]: record["data"]["loss"] for record in records(straight, "train")}
    found = [(record["data"]["iter"], record["data"]["loss"]) for record in records(killed, "train")]
    assert sorted(expected) == list(range(ITERATIONS)) and {number for number, _ in found} == set(expected)
    assert all(loss == expected[number] for number, loss in found), "a repeated iteration had another loss"
    assert 3 * batches_per_epoch(demo_data) < ITERATIONS
    one, two = (checkpoint_state(folder, stem_of(demo_data, ITERATIONS)) for folder in (straight, killed))
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    assert not [path for path in (killed / "weights").iterdir() if path.suffix == ".tmp"]
