"""Checkpoints of a training: weights, optimizer and progress, written so that no kill leaves a broken one.

utils/checkpoint_files.py tells which files that are, and deletes them.
"""
from __future__ import annotations

import json
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle

from utils import ranks
from utils.checkpoint_files import SUFFIXES, CheckpointError, Name, find, list_checkpoints
from utils.files import remove_files, sync_to_disk
from utils.runtime import UserError
from utils.update import Update
from utils.weights import load_weights, read_weights, save_safetensors, unpickle_arrays

FORMAT = 1
STATE_TYPES = {"config": dict, "epoch": int, "iteration": int}  # of what every .json has
AVERAGE = "average:"  # in front of the names of the weights' moving average, in the .pdopt


def _slots(net: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> Iterator[tuple[str, str, paddle.Tensor]]:
    """Yield (structured parameter name, slot, tensor) of every accumulator of an optimizer.

    Paddle names accumulators ``<global parameter name>_<slot>_<n>``, and global names count up with every
    network made in the process; structured names are the same in every process.
    """
    by_global_name = {parameter.name: name for name, parameter in net.named_parameters()}
    for key, tensor in optimizer.state_dict().items():
        owners = [name for name in by_global_name if key.startswith(name + "_")]
        if not owners or not hasattr(tensor, "set_value"):
            continue  # not an accumulator
        owner = max(owners, key=len)
        yield by_global_name[owner], re.sub(r"_\d+$", "", key[len(owner) + 1:]), tensor


def optimizer_state(net: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """Optimizer slots as dict "<parameter>:<slot>" -> ndarray; empty before the first step."""
    return {f"{name}:{slot}": tensor.numpy() for name, slot, tensor in _slots(net, optimizer)}


def load_optimizer_state(net: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer,
                         state: Mapping[str, np.ndarray]) -> None:
    """Give a freshly made optimizer the slots that ``optimizer_state`` read.

    Accumulators exist only after a step, so one is made with zero gradients and a learning rate of 0, which
    leaves the parameters as they are. Slots of parameters that are frozen now are not used.

    Args:
        optimizer: its learning rate must be a number, not a scheduler.
    Raises:
        CheckpointError: when the slots are of another optimizer or another network.
    """
    parameters = dict(net.named_parameters())
    names = {key.rpartition(":")[0] for key in state}
    unknown = sorted(names - set(parameters))
    if unknown:
        raise CheckpointError(f"the optimizer state is of another network ({unknown[0]} is not in this one); "
                              "pass the --config of the checkpoint")
    trained = [name for name in sorted(names) if not parameters[name].stop_gradient]
    if not trained:
        return
    optimizer.clear_grad(set_to_zero=False)
    for name in trained:
        parameters[name].grad = paddle.zeros_like(parameters[name])
    rate = optimizer.get_lr()
    optimizer.set_lr(0.0)
    optimizer.step()
    optimizer.set_lr(rate)
    optimizer.clear_grad(set_to_zero=False)
    for name, slot, tensor in _slots(net, optimizer):
        array = state.get(f"{name}:{slot}")
        if array is None or tuple(array.shape) != tuple(tensor.shape):
            held = sorted({key.rpartition(":")[2] for key in state})
            raise CheckpointError(f"the optimizer state of the checkpoint (slots {', '.join(held)}) does not "
                                  f"fit {type(optimizer).__name__} ({slot} of {name}); set the config key "
                                  "optimizer as it was, or start from the weights with --trained_model")
        tensor.set_value(array.astype(tensor.numpy().dtype, copy=False))


def _json_default(value: Any) -> Any:
    """Numbers and arrays of numpy as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be saved in a checkpoint's .json")


def update_state(update: Update) -> dict[str, np.ndarray]:
    """What a step depends on beside the weights, for the .pdopt: optimizer slots, and the weights' moving average."""
    state = optimizer_state(update.net, update.optimizer)
    if update.average is not None:
        state.update({AVERAGE + name: tensor.numpy() for name, tensor in update.average.tensors.items()})
    return state


def load_update_state(update: Update, state: Mapping[str, np.ndarray]) -> None:
    """The inverse of ``update_state``; a moving average that was not saved starts from the weights."""
    load_optimizer_state(update.net, update.optimizer,
                         {key: array for key, array in state.items() if not key.startswith(AVERAGE)})
    if update.average is not None:
        for name, tensor in update.net.state_dict().items():
            array = state.get(AVERAGE + name, tensor.numpy())
            if tuple(array.shape) != tuple(tensor.shape):
                raise CheckpointError(f"the moving average of the checkpoint is of another network ({name} is "
                                      f"{list(array.shape)} in it); pass the --config of the checkpoint")
            update.average.tensors[name].set_value(array.astype(tensor.numpy().dtype, copy=False))


def _write(path: str, suffix: str, update: Update, state: Mapping[str, Any]) -> None:
    """Write one of the three files and see it on the disk."""
    if suffix == ".pdparams":
        paddle.save(update.net.state_dict(), path)
    elif suffix == ".pdopt":
        with open(path, "wb") as file:
            pickle.dump(update_state(update), file, protocol=4)
    else:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "paddle": paddle.__version__, **state}, file, default=_json_default)
    sync_to_disk(path)


def save(folder: str, name: Name | str, update: Update, state: Mapping[str, Any]) -> str:
    """Write a checkpoint; a failure or a kill leaves the ones already there as they were.

    All three files are written beside their places first; only then they are moved there.

    Args:
        folder: made if it is missing.
        name: Name (or its text).
        update: whose network, optimizer, moving average and loss scale are saved.
        state: plain dict for the .json: "config" (dict), "epoch", "iteration" (steps done), "position" (next
            batch of the epoch), "best" (metrics so far), "options", ... The loss scale is added to it. The data order
            and all random draws, in this process and in the workers, follow from seed, epoch, image and iteration
            (utils/loader.py, ``seed_everything``), so no generator state is needed.
    Returns:
        path of the .pdparams.
    Raises:
        CheckpointError: when the folder cannot be written (for example, the disk is full).
    """
    stem = os.path.join(folder, str(name))
    if update.scaler is not None:
        state = {**state, "loss_scaling": update.scaler.state_dict()}
    temporary = {suffix: f"{stem}{suffix}.tmp" for suffix in SUFFIXES}
    try:
        os.makedirs(folder, exist_ok=True)
        for suffix, path in temporary.items():
            _write(path, suffix, update, state)
        remove_files([stem + ".pdparams"])  # the old one must not stand beside the new optimizer state
        for suffix, path in temporary.items():
            os.replace(path, stem + suffix)
        sync_to_disk(folder)
    except OSError as error:
        raise CheckpointError(f"cannot save the checkpoint {stem} ({error.strerror or error}); free some "
                              "space or choose another --save_folder") from error
    finally:
        remove_files(temporary.values())
    return stem + ".pdparams"


def read_state(path: str) -> dict[str, Any]:
    """The .json of a checkpoint as a dict.

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    beside = os.path.splitext(path)[0] + ".json"
    try:
        with open(beside, encoding="utf-8") as file:
            state = json.load(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} cannot be resumed: {os.path.basename(beside)} is not beside it; "
                              "use --trained_model to start from its weights") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{beside} is damaged ({error}); resume from an older checkpoint") from error
    if not isinstance(state, dict) or not all(type(state.get(key)) is kind for key, kind in STATE_TYPES.items()):
        raise CheckpointError(f"{beside} is not the state of a training; resume from another checkpoint")
    return state


def save_network(path: str, update: Update, config: dict[str, Any]) -> None:
    """Write the network that is validated, the averaged one if there is one, as ``.safetensors`` with its config.

    Raises:
        CheckpointError: it cannot be written.
    """
    tensors = update.net.state_dict() if update.average is None else update.average.tensors
    try:
        save_safetensors(path, {name: tensor.numpy() for name, tensor in tensors.items()}, config)
    except OSError as error:
        raise CheckpointError(f"cannot save {path} ({error.strerror or error}); free some space or choose another "
                              "--save_folder") from error


def save_averaged(path: str, update: Update, config: dict[str, Any]) -> str:
    """Write the averaged network, if there is one, beside its checkpoint; the first rank alone writes.

    Returns:
        path of the network to evaluate: ``<stem>_ema.safetensors``, or ``path`` without an average.
    Raises:
        CheckpointError: as ``save_network``.
    """
    if update.average is None:
        return path
    averaged = path.replace(".pdparams", "_ema.safetensors")
    if ranks.rank() == 0:
        save_network(averaged, update, config)
    return averaged


def load_training_state(path: str, update: Update) -> dict[str, Any]:
    """Restore what makes steps exactly, and return the dict that was saved beside it.

    Args:
        path: the .pdparams.
        update: made anew from the same config; its network, optimizer, moving average and loss scale are filled.
    Raises:
        CheckpointError, utils.weights.WeightsError: when a file is missing, damaged or does not fit.
    """
    state = read_state(path)
    slots = os.path.splitext(path)[0] + ".pdopt"
    if not os.path.exists(slots):
        raise CheckpointError(f"{path} cannot be resumed: {os.path.basename(slots)} is not beside it; "
                              "use --trained_model to start from its weights")
    weights = read_weights(path)
    arrays = {key: np.asarray(value) for key, value in unpickle_arrays(slots).items()}
    load_weights(update.net, weights, strict=True)  # first, as its message says more about another network
    load_update_state(update, arrays)
    if update.scaler is not None and "loss_scaling" in state:
        update.scaler.load_state_dict(state["loss_scaling"])
    return state


def resume(folder: str, which: str, config_name: str, update: Update) -> tuple[str, dict[str, Any]] | None:
    """Restore the newest checkpoint of a config that can be read; one that cannot costs a warning.

    Args:
        folder, which, config_name: as for ``find``. update: as for ``load_training_state``.
    Returns:
        (path, state), or None if there is no checkpoint and `which` is 'latest'.
    Raises:
        CheckpointError, utils.weights.WeightsError: there are some, and none can be used; or none to 'interrupt'.
    """
    paths = [path for _, path in list_checkpoints(folder, config_name, which)]
    if not paths and which == "latest":
        return None
    failures = []
    for path in reversed(paths or [find(folder, which, config_name)]):
        try:
            state = load_training_state(path, update)
        except UserError as error:
            failures.append(error)
            continue
        if failures:
            logging.warning("%s; the training goes on from %s instead", failures[0], path)
        return path, state
    raise failures[0]
