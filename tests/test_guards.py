"""What ends a training: losses that are not finite, Ctrl-C and SIGTERM."""
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.guards import BadSteps, StopRequest, TooManyBadSteps

REPO = Path(__file__).resolve().parent.parent
GOOD, BAD = {"B": 1.0, "C": 2.0}, {"B": 1.0, "C": float("nan")}
BATCH = SimpleNamespace(samples=[SimpleNamespace(image_id=number) for number in (7, 11)])


def test_bad_steps_in_a_row_end_the_training_and_name_the_first(caplog):
    bad_steps = BadSteps(3)
    for iteration, losses in enumerate((BAD, BAD, GOOD, BAD, {"B": float("inf")})):
        bad_steps.check(losses, iteration, BATCH)
    assert bad_steps.count == 2
    assert len(caplog.records) == 4 and "iteration 0 is skipped" in caplog.messages[0]
    assert "B 1.0, C nan" in caplog.messages[0] and "images [7, 11]" in caplog.messages[0]
    with pytest.raises(TooManyBadSteps, match="3 iterations in a row.*--lr") as raised:
        bad_steps.check(BAD, 5, BATCH)
    assert raised.value.first == 3


def test_a_signal_waits_for_the_loop_and_handlers_come_back(caplog):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as request, caplog.at_level(logging.WARNING):
        assert request.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGTERM and "once more stops at once" in caplog.text
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("ignored, code", [(False, -signal.SIGTERM), (True, 0)])
def test_a_second_signal_ends_the_process_and_ignored_ones_stay_ignored(ignored, code):
    program = ("import os, signal\nfrom utils.guards import StopRequest\n"
               f"signal.signal(signal.SIGTERM, signal.SIG_IGN) if {ignored} else None\n"
               "with StopRequest() as request:\n"
               "    os.kill(os.getpid(), signal.SIGTERM)\n"
               "    os.kill(os.getpid(), signal.SIGTERM)\n"
               "assert request.signal == 0\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
