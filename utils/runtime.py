"""The process a command runs in: CPU threads, device, seed, memory.

Import it before anything else that imports ``paddle``, as train.py and eval.py do: it sets what Paddle's MKL reads
when it is loaded, imports numpy first (after Paddle 2.6.2 alone, importing pycocotools crashes), and silences Paddle's
warning about ccache, which concerns only who compiles operators.
"""
from __future__ import annotations

import argparse
import logging
import math
import os
import random
import resource
import subprocess
import sys
import warnings
from typing import Any

from utils.errors import UserError as UserError

# numpy's threads: its products are small here, and threads that wait for more of them take the network's time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np  # noqa: E402


def _is_amd(cpuinfo="/proc/cpuinfo"):
    try:
        with open(cpuinfo) as file:
            return "AuthenticAMD" in file.read(4096)
    except OSError:
        return False


# The MKL inside Paddle's wheel takes its slowest path on processors that are not Intel's. Told to take the one for
# AVX2 it multiplies matrices three times as fast on AMD's (measured on 2 cores of an EPYC: 49 -> 162 GFLOP/s).
if _is_amd():
    os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")

# Errors only: what Paddle's core remarks on building graphs is for its developers.
os.environ.setdefault("GLOG_minloglevel", "2")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle

GIB = 2.0 ** 30


def _cgroup_cpus(root="/sys/fs/cgroup"):
    """CPUs the container's quota allows (cgroup v2, then v1), or None without a quota."""
    def words(name):
        try:
            with open(os.path.join(root, name)) as file:
                return file.read().split()
        except OSError:
            return []

    quota = words("cpu.max") or words("cpu/cpu.cfs_quota_us") + words("cpu/cpu.cfs_period_us")
    if len(quota) != 2 or quota[0] in ("max", "-1") or int(quota[1]) <= 0:
        return None
    return max(1, round(int(quota[0]) / int(quota[1])))


def available_cpus() -> int:
    """Number of CPUs this process may use: its affinity, cut to the container's CPU quota.

    A container with 2 CPUs on a 64-core machine sees 64 cores; 64 threads on 2 CPUs are slower than one.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cpus, _cgroup_cpus() or cpus)


def _user_threads():
    """OMP_NUM_THREADS as the user set it, or None.

    Importing Paddle writes OMP_NUM_THREADS=1 into the environment when it is unset, so a 1 counts only if
    the process was started with it.
    """
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not value.isdigit() or int(value) < 1:
        return None
    if value == "1":
        try:
            with open("/proc/self/environ", "rb") as file:
                given = any(entry.startswith(b"OMP_NUM_THREADS=") for entry in file.read().split(b"\0"))
        except OSError:
            given = False
        return 1 if given else None
    return int(value)


def set_threads(count: int | None = None) -> int:
    """Let Paddle compute with several CPU threads; returns the number set.

    Paddle uses one thread unless OMP_NUM_THREADS was set before its import, and prints a warning when it
    was; setting the number afterwards has the same effect and is silent.

    Args:
        count: threads wanted; None takes the user's OMP_NUM_THREADS, else every available CPU.
    """
    if count is None:
        count = _user_threads() or available_cpus()
    paddle.base.core.set_num_threads(int(count))
    return int(count)


def set_up_messages() -> None:
    """Let a command write warnings as plain lines to stderr.

    Importing Paddle gives the root logger a handler that adds times and file names, and lets every library's
    chatter through.
    """
    plain = logging.Formatter("%(levelname)s: %(message)s")
    logging.basicConfig()
    logging.root.setLevel(logging.WARNING)
    for handler in logging.root.handlers:
        if type(handler) is logging.StreamHandler:  # not those of a program that calls the command's main()
            handler.setFormatter(plain)
    warnings.filterwarnings("ignore", message="When training, we now always")  # of every batch norm of Paddle


def select_device(use_cuda: bool) -> str:
    """Make the GPU or the CPU Paddle's device; returns 'gpu' or 'cpu'.

    A GPU that is wanted but not there costs one warning, not the run: ``--cuda=True`` is the default of
    the original's commands and must not keep them from working on a laptop.
    """
    if not use_cuda:
        paddle.set_device("cpu")
        return "cpu"
    if not paddle.is_compiled_with_cuda():
        reason = "this PaddlePaddle is the CPU build; pip install -r requirements-gpu.txt to use a GPU"
    elif paddle.device.cuda.device_count() < 1:
        reason = "no GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    else:
        paddle.set_device("gpu")
        return "gpu"
    logging.warning("--cuda=True, but %s. Running on the CPU (--cuda=False hides this warning).", reason)
    paddle.set_device("cpu")
    return "cpu"


def _mix(*numbers):
    """A 31-bit seed that depends on every number given (order included)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] & 0x7FFFFFFF)


def seed_everything(seed: int, iteration: int | None = None) -> None:
    """Seed Python's, numpy's and Paddle's global generators.

    With an iteration the seed is mixed with it. A training loop that calls this before every step draws
    the same numbers in step k whether it ran from 0 or was resumed at k, so a checkpoint need not hold
    generator states (Paddle 2.6 cannot serialise its own).
    """
    if iteration is not None:
        seed = _mix(seed, iteration)
    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)


def peak_memory_gib() -> float:
    """Highest memory use so far in GiB: of the device if it is a GPU, else of the process (resident)."""
    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_allocated() / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB  # macOS counts bytes, Linux KiB


@paddle.no_grad()
def multiply_adds(net: paddle.nn.Layer, images: paddle.Tensor) -> int:
    """Multiplications with addition that a network's convolutions need for a batch; everything else is small beside it.

    Args:
        net: is run once. images: its input.
    """
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        total += int(np.prod(layer.weight.shape)) * int(np.prod(output.shape[2:])) * output.shape[0]

    hooks = [layer.register_forward_post_hook(count) for layer in net.sublayers()
             if getattr(layer, "weight", None) is not None and layer.weight.ndim == 4]
    net(images)
    for hook in hooks:
        hook.remove()
    return total


def gpu_stats() -> list[dict[str, str]]:
    """nvidia-smi's view of every GPU as a list of dicts (for ``--log_gpu``); [] where there is none."""
    fields = ("index", "name", "utilization.gpu", "memory.used", "memory.total", "power.draw")
    command = ["nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines() if line.strip()]
    return [dict(zip(fields, row)) for row in rows]


def str2bool(text: Any) -> bool:
    """argparse type for ``--flag=True``: yes/true/t/y/1/on and no/false/f/n/0/off in any case.

    Raises argparse.ArgumentTypeError for any other word (as the original's eval.py; its train.py silently
    read every other word as False).
    """
    word = str(text).strip().lower()
    if word in ("yes", "true", "t", "y", "1", "on"):
        return True
    if word in ("no", "false", "f", "n", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false; write True or False")


def whole_number(text: str) -> int:
    """argparse type of what is counted: an integer from 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def threshold(text: str) -> float:
    """argparse type of a score: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 0.3")
    return value


def seed_number(text: str) -> int:
    """argparse type of ``--seed``: what every generator takes."""
    if not (text.isascii() and text.isdigit() and int(text) < 2 ** 32):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; write an integer from 0 to 4294967295")
    return int(text)
