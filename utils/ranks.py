"""The processes ("ranks") of a training or an evaluation that Paddle's launcher has spread over devices.

    python -m paddle.distributed.launch --nproc_per_node=4 train.py ...

Without the launcher there is one rank, and nothing here does anything.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import paddle


def count() -> int:
    """Number of processes that work together; 1 without the launcher."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def rank() -> int:
    """Number of this process, from 0. Rank 0 alone writes files and prints."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0")) if count() > 1 else 0


def join() -> None:
    """Connect with the other ranks; after the device is chosen, before anything is shared."""
    if count() > 1:
        paddle.distributed.init_parallel_env()


def silence_others() -> None:
    """Let rank 0 alone print: what the others print is dropped for the rest of the process."""
    if rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)


def total(values: Iterable[float]) -> list[float]:
    """Sum over all ranks of some numbers, the same on all of them. list of float or int -> list of float."""
    if count() == 1:
        return list(values)
    tensor = paddle.to_tensor(np.asarray(list(values), np.float64))
    paddle.distributed.all_reduce(tensor)
    return tensor.numpy().tolist()


def highest(value: int) -> int:
    """The highest of an integer over all ranks."""
    if count() == 1:
        return value
    tensor = paddle.to_tensor([value])
    paddle.distributed.all_reduce(tensor, paddle.distributed.ReduceOp.MAX)
    return tensor.item()


def add_gradients(parameters: Sequence[paddle.Tensor]) -> None:
    """Replace the gradient of every parameter by its sum over all ranks.

    One message holds all of them. A parameter that has none on some rank (a branch that no picture of that rank
    needed) counts as zero there; without this the ranks would wait for each other, or drift apart.
    """
    if count() == 1:
        return
    parts = [(paddle.zeros(parameter.shape) if parameter.grad is None else parameter.grad).flatten()
             for parameter in parameters]
    flat = paddle.concat(parts)
    paddle.distributed.all_reduce(flat)
    for parameter, part in zip(parameters, paddle.split(flat, [len(part) for part in parts])):
        parameter.grad = part.reshape(parameter.shape)


def share_weights(net: paddle.nn.Layer) -> None:
    """Give every rank the weights of rank 0."""
    if count() > 1:
        for tensor in net.state_dict().values():
            paddle.distributed.broadcast(tensor, src=0)


def gathered(value: Any) -> list:
    """What every rank has of a plain Python value: list, in the order of the ranks."""
    if count() == 1:
        return [value]
    values: list = []
    paddle.distributed.all_gather_object(values, value)
    return values
