"""Checkpoints of a training: weights, optimizer and progress, written so that no kill leaves a broken one.

A checkpoint is three files of one stem, ``<config>_<epoch>_<iteration>`` (``..._interrupt`` after Ctrl-C):
``.pdparams`` (weights), ``.pdopt`` (optimizer slots) and ``.json`` (config, progress). The ``.pdparams``
appears last: where it is, the other two are complete.
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import shutil
from typing import NamedTuple

import numpy as np
import paddle

from utils import ranks
from utils.files import sync_to_disk
from utils.runtime import UserError
from utils.weights import load_weights, read_weights, save_safetensors, unpickle_arrays

SUFFIXES = (".json", ".pdopt", ".pdparams")  # in the order in which they appear
# Behind the name of weights, what utils/networks.py keeps beside them, for networks with and without a mask branch.
ENGINE_FOLDERS = {True: ".engine", False: ".boxes.engine"}
FORMAT = 1
# Config keys, or their beginnings, that change what given weights find.
NETWORK_KEYS = (
    "max_size", "max_num_detections", "nms_", "mask_type", "mask_size", "mask_proto_", "fpn.", "head_layer_params",
    "extra_head_net", "share_prediction_module", "preserve_aspect_ratio", "use_focal_loss", "use_sigmoid_focal_loss",
    "use_objectness_score", "use_mask_scoring", "use_maskiou", "maskiou_net", "rescore_", "backbone.args",
    "backbone.pred_", "backbone.selected_layers", "backbone.transform", "backbone.type",
    "backbone.use_square_anchors", "dataset.class_names", "dataset.label_map")
_NAME = re.compile(r"(?P<config>.+)_(?P<epoch>\d+)_(?P<iteration>\d+)(?P<interrupt>_interrupt)?")


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete or of another training."""


class Name(NamedTuple):
    """What a checkpoint's file name says; ``str()`` gives the name without folder and suffix."""

    config: str
    epoch: int
    iteration: int
    interrupt: bool = False

    def __str__(self):
        return f"{self.config}_{self.epoch}_{self.iteration}{'_interrupt' if self.interrupt else ''}"


def parse_name(path):
    """Name of a weights file called ``<config>_<epoch>_<iteration>[_interrupt].<suffix>``, or None."""
    match = _NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if match is None:
        return None
    return Name(match["config"], int(match["epoch"]), int(match["iteration"]), bool(match["interrupt"]))


def name_of_config(path):
    """The config that a weights file is named after: yolact_base of yolact_base_54_800000.npz or alone."""
    name = parse_name(path)
    return name.config if name else os.path.splitext(os.path.basename(path))[0]


def list_checkpoints(folder, config_name):
    """(Name, path of the .pdparams) of a config's checkpoints, oldest iteration first.

    Weights without optimizer state, such as converted ones, are no checkpoint.
    """
    found = []
    for file in os.listdir(folder) if os.path.isdir(folder) else []:
        name = parse_name(file) if file.endswith(".pdparams") else None
        path = os.path.join(folder, file)
        if name is not None and name.config == config_name and os.path.exists(os.path.splitext(path)[0] + ".pdopt"):
            found.append((name, path))
    return sorted(found, key=lambda item: (item[0].iteration, item[0].interrupt))


def find(folder, which, config_name):
    """Path of the newest checkpoint of a config.

    Args:
        folder: ``--save_folder``.
        which: 'latest' (any kind) or 'interrupt' (only those saved by Ctrl-C), as on the command line.
        config_name: the config's ``name``.
    Raises:
        CheckpointError: when there is none.
    """
    found = [path for name, path in list_checkpoints(folder, config_name)
             if which == "latest" or name.interrupt]
    if not found:
        kind = "checkpoint" if which == "latest" else "interrupted checkpoint"
        raise CheckpointError(f"{which!r}: there is no {kind} of {config_name} in {folder}; "
                              "check --save_folder and --config, or give the file's path")
    return found[-1]


def _slots(net, optimizer):
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


def optimizer_state(net, optimizer):
    """Optimizer slots as dict "<parameter>:<slot>" -> ndarray; empty before the first step."""
    return {f"{name}:{slot}": tensor.numpy() for name, slot, tensor in _slots(net, optimizer)}


def load_optimizer_state(net, optimizer, state):
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
        tensor.set_value(array)


def _json_default(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be saved in a checkpoint's .json")


AVERAGE = "average:"  # in front of the names of the weights' moving average, in the .pdopt


def update_state(update):
    """What a step depends on beside the weights, for the .pdopt: optimizer slots, and the weights' moving average."""
    state = optimizer_state(update.net, update.optimizer)
    if update.average is not None:
        state.update({AVERAGE + name: tensor.numpy() for name, tensor in update.average.tensors.items()})
    return state


def load_update_state(update, state):
    """The inverse of ``update_state``; a moving average that was not saved starts from the weights."""
    load_optimizer_state(update.net, update.optimizer,
                         {key: array for key, array in state.items() if not key.startswith(AVERAGE)})
    if update.average is not None:
        for name, tensor in update.net.state_dict().items():
            array = state.get(AVERAGE + name)
            update.average.tensors[name].set_value(tensor.numpy() if array is None else array)


def _write(path, suffix, update, state):
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


def save(folder, name, update, state):
    """Write a checkpoint; a failure or a kill leaves the ones already there as they were.

    All three files are written beside their places first; only then they are moved there.

    Args:
        folder: made if it is missing.
        name: Name (or its text).
        update: has net, optimizer, average and scaler (utils.update.Update).
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
        _remove([stem + ".pdparams"])  # the old one must not stand beside the new optimizer state
        for suffix, path in temporary.items():
            os.replace(path, stem + suffix)
        sync_to_disk(folder)
    except OSError as error:
        raise CheckpointError(f"cannot save the checkpoint {stem} ({error.strerror or error}); free some "
                              "space or choose another --save_folder") from error
    finally:
        _remove(temporary.values())
    return stem + ".pdparams"


def _remove(paths):
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def read_state(path):
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
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside} is damaged ({error}); resume from an older checkpoint") from error
    if not isinstance(state, dict) or not {"config", "epoch", "iteration"} <= set(state):
        raise CheckpointError(f"{beside} is not the state of a training; resume from another checkpoint")
    return state


def save_network(path, update, config):
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


def save_averaged(path, update, config):
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


def load_training_state(path, update):
    """Restore what makes steps exactly, and return the dict that was saved beside it.

    Args:
        path: the .pdparams. update: as for ``save``, made anew from the same config.
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


def resume(folder, which, config_name, update):
    """Restore the newest checkpoint of a config that can be read; one that cannot costs a warning.

    Args:
        folder, which, config_name: as for ``find``. update: as for ``load_training_state``.
    Returns:
        (path, state), or None if there is no checkpoint and `which` is 'latest'.
    Raises:
        CheckpointError, utils.weights.WeightsError: there are some, and none can be used; or none to 'interrupt'.
    """
    paths = [path for name, path in list_checkpoints(folder, config_name) if which == "latest" or name.interrupt]
    if not paths and which == "latest":
        return None
    failure = None
    for path in reversed(paths or [find(folder, which, config_name)]):
        try:
            state = load_training_state(path, update)
        except UserError as error:
            failure = failure or error
            continue
        if failure is not None:
            logging.warning("%s; the training goes on from %s instead", failure, path)
        return path, state
    raise failure


def flat_config(config):
    """A plain nested dict as JSON gives it back, as {dotted key: value}; label maps stay whole."""
    def leaves(group, prefix):
        for key, value in group.items():
            if isinstance(value, dict) and key != "label_map":
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(leaves(json.loads(json.dumps(config)), ""))


def config_differences(saved, current):
    """Keys in which the config of a checkpoint differs from the present one.

    Args:
        saved, current: plain nested dicts; integer keys and their JSON form count as equal.
    Returns:
        list of (dotted key, saved value, present value); a key that one of them lacks has the value None.
    """
    theirs, ours = flat_config(saved), flat_config(current)
    return [(key, theirs.get(key), ours.get(key)) for key in sorted({*theirs, *ours})
            if theirs.get(key) != ours.get(key)]


def network_differences(saved, current):
    """Those ``config_differences`` that change what the saved weights find: network and detection."""
    return [difference for difference in config_differences(saved, current)
            if difference[0].startswith(NETWORK_KEYS)]


def check_writable(folder, option):
    """Make a folder and see that a file can be made in it: before hours of work that would be lost.

    Args:
        option: of the command line, for the message.
    Raises:
        CheckpointError: it cannot be written.
    """
    probe = os.path.join(folder, f".{os.getpid()}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "w", encoding="utf-8"):
            pass
        os.remove(probe)
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder} ({error.strerror}); choose another "
                              f"{option}") from error


def remove(path):
    """Delete the three files of a checkpoint, the .pdparams first, and what engines ran in place of it."""
    stem = os.path.splitext(path)[0]
    _remove(stem + suffix for suffix in reversed(SUFFIXES))
    for suffix in ENGINE_FOLDERS.values():
        shutil.rmtree(stem + ".pdparams" + suffix, ignore_errors=True)


def prune(previous, current, keep_interval):
    """``--keep_latest``: delete the previous checkpoint once the current one is saved.

    Args:
        previous: path of the latest checkpoint before saving, or None.
        current: path just saved; never deleted.
        keep_interval: checkpoints at multiples of this iteration stay (``--keep_latest_interval``); <= 0
            keeps none.
    Returns:
        the path deleted, or None.
    """
    name = parse_name(previous) if previous is not None else None
    if name is None or os.path.abspath(previous) == os.path.abspath(current):
        return None
    if keep_interval > 0 and name.iteration > 0 and name.iteration % keep_interval == 0:
        return None
    remove(previous)
    return previous


def remove_interrupts(folder, config_name, keep=None):
    """Delete a config's ``_interrupt`` checkpoints but ``keep``: after Ctrl-C only the newest is of use."""
    for name, path in list_checkpoints(folder, config_name):
        if name.interrupt and (keep is None or os.path.abspath(path) != os.path.abspath(keep)):
            remove(path)


def remove_leftovers(folder, config_name):
    """Delete what a killed save of this config left behind: ``.tmp`` files, and parts without .pdparams."""
    for file in os.listdir(folder) if os.path.isdir(folder) else []:
        stem, suffix = os.path.splitext(file[:-4] if file.endswith(".tmp") else file)
        name = parse_name(stem + suffix) if suffix in SUFFIXES else None
        if name is None or name.config != config_name:
            continue
        whole = os.path.exists(os.path.join(folder, stem + ".pdparams"))
        if file.endswith(".tmp") or (suffix == ".pdopt" and not whole):
            _remove([os.path.join(folder, file)])
