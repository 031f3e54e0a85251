"""From weights to a network that runs: in Paddle itself, or in a faster engine that is built once and then kept.

What an engine runs lies in a folder beside the weights, an export as tools/export.py writes it. It is built again when
the weights or what shapes the network have changed, and no engine is used before it was compared with the network.
"""
from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError

# isort: split
import paddle

from data.config import Config, ConfigError, get_config, make_config
from utils import ranks
from utils.checkpoint_files import ENGINE_FOLDERS, find, name_of_config
from utils.engines import FASTEST_FIRST, check_installed, is_installed, usable_precision, version_of
from utils.exported import Exported, hash_of, load_exported, read_description
from utils.exporting import (
    check_fixed_shape,
    check_replaceable,
    engine_of,
    export,
    network_config,
    verification_record,
    write_description,
)
from utils.in_out import check_writable
from utils.onnx_files import check_packages
from utils.released import weights_file
from utils.verification import reference_cases, verification_picture
from utils.weights import load_weights, read_weights, saved_config
from yolact import Yolact


def locate(trained_model: str, config_name: str | Mapping[str, Any] | None, folder: str, bar: bool = True
           ) -> tuple[str, Config, dict[str, Any] | None]:
    """Weights and the config that belongs to them: the named one, else that saved with them, else that of their name.

    Args:
        trained_model, config_name, folder: as eval.py's --trained_model, --config, --save_folder. bar: for a download.

    Returns: (path, Config, dict of the config saved with the weights or None).

    Raises:
        UserError, ConfigError: there is no such file or config, or no way to tell the config.
    """
    config = None if config_name is None else make_config(config_name)
    if trained_model in ("latest", "interrupt"):
        if config is None:
            raise UserError(f"--trained_model={trained_model} needs --config, to know whose it is; or name a file")
        path = find(folder, trained_model, config.name)
    else:
        path = weights_file(trained_model, folder, get_config, bar)
    saved = saved_config(path)
    if config is None:
        try:
            config = make_config(saved or name_of_config(path))
        except ConfigError as error:
            source = "saved with" if saved else "in the name of"
            raise UserError(f"the config {source} {path} cannot be used: {error}; pass --config") from error
    elif saved and config.dataset.class_names is None:
        dataset = saved.get("dataset")
        config.dataset.class_names = dataset.get("class_names") if isinstance(dataset, dict) else None
    return path, config, saved


def load_network(path: str, config: Config) -> Yolact:
    """The network of a config with the weights of a file, in evaluation mode.

    Raises:
        WeightsError: the file cannot be read or does not fit the config.
    """
    net = Yolact(config)
    weights = read_weights(path)
    if not config.eval_mask_branch:
        weights = {name: array for name, array in weights.items()
                   if not name.startswith(("proto_net.", "maskiou_net."))}
    load_weights(net, weights)
    net.eval()
    return net


class CannotBuild(UserError):
    """What engines run cannot be made, whichever engine it is for."""


class MixedPrecision(paddle.nn.Layer):
    """A network whose convolutions and products a GPU computes in bfloat16; its outputs are float32.

    Args:
        net: Yolact.
    """

    def __init__(self, net: Yolact) -> None:
        super().__init__()
        self.net = net
        self.maskiou_net = net.maskiou_net

    def forward(self, images: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """As `Yolact.forward`."""
        with paddle.amp.auto_cast(dtype="bfloat16"):
            out = self.net(images)
        return {name: value.astype("float32") for name, value in out.items()}


def open_network(path: str, config: Config, backend: str = "auto", precision: str = "fp32", streams: int | None = 1,
                 use_gpu: bool = False) -> tuple[Yolact | MixedPrecision | Exported, str]:
    """The network of a config with the weights of a file, in the engine that is asked for.

    Args:
        path: of the weights. config: its Config.
        backend: of utils.engines.BACKENDS; "auto": Paddle on a GPU, else the fastest that is installed.
        precision, streams: as utils.engines.Settings.
        use_gpu: whether a GPU is Paddle's current device.

    Returns:
        (Yolact, with bf16 on a GPU in MixedPrecision; or utils.exported.Exported; what runs it, for people).

    Raises:
        UserError: the engine is not installed, or it computes something else than the network. "auto" takes the next
            one then, with a warning.
        WeightsError: the weights cannot be read or do not fit the config.
    """
    if use_gpu and backend in ("auto", "paddle"):
        net = load_network(path, config)
        return net if precision == "fp32" else MixedPrecision(net), f"{version_of('paddle')}, {precision}, GPU"
    backend, precision = usable_precision(backend, precision)
    if backend not in ("auto", "paddle"):
        return open_engine(path, config, backend, precision, streams)
    for engine in FASTEST_FIRST if backend == "auto" else ():
        if engine != "paddle" and is_installed(engine):
            try:
                return open_engine(path, config, engine, precision, streams)
            except CannotBuild as error:
                logging.warning("no engine but Paddle: %s", error)
                break
            except UserError as error:
                logging.warning("%s is left out: %s", engine, error)
    return load_network(path, config), f"{version_of('paddle')}, {precision}"


def engine_folder(path: str, config: Config) -> str:
    """Where the files lie that engines run in place of a weights file."""
    return path + ENGINE_FOLDERS[config.eval_mask_branch]


def current_description(path: str, config: Config) -> dict[str, Any] | None:
    """The description of the engine's files of some weights; None if they are not there, not whole, or not of these."""
    folder = engine_folder(path, config)
    try:
        description = read_description(folder)
        whole = all(hash_of(os.path.join(folder, name)) == file["sha256"]
                    for name, file in description["files"].items())
        same = (description["weights"]["sha256"] == hash_of(path)
                and description["network"] == json.loads(json.dumps(network_config(config))))
        compared = [dict(record) for record in description["compared"]]  # an error if they are none
        return {**description, "compared": compared} if whole and same else None
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def open_engine(path: str, config: Config, backend: str, precision: str, streams: int | None
                ) -> tuple[Exported, str]:
    """As `open_network`, in an engine other than Paddle; what it runs is built, or verified, if need be."""
    check_installed(backend)
    folder, problem = engine_folder(path, config), None
    if ranks.rank() == 0:
        try:
            prepare_engine(path, config, backend, precision, folder)
        except UserError as error:
            problem = type(error) is CannotBuild, str(error)
        except OSError as error:
            problem = True, f"{folder} cannot be written ({error.strerror}); mend that, or use --backend=paddle"
    problem = ranks.gathered(problem)[0]  # the other ranks wait for the first one
    if problem is not None:
        raise (CannotBuild if problem[0] else UserError)(problem[1])
    # The first rank has looked at the files' hashes.
    exported = load_exported(folder, False, backend, precision, streams, check_files=False)
    return exported, exported.engine


def prepare_engine(path: str, config: Config, backend: str, precision: str, folder: str) -> None:
    """Build what an engine runs, or verify an engine that has not been verified yet."""
    description = current_description(path, config)
    wanted = engine_of(backend, precision)
    if description and any(wanted.items() <= record.items() for record in description["compared"]):
        return
    if description is None:
        check_buildable(config, folder)
    net = load_network(path, config)
    picture = verification_picture(None, config.dataset.valid_images)
    if description is None:
        print(f"building {folder} for {wanted['engine']}, once for these weights ...", flush=True)
        export(net, config, path, folder, ["onnx"], [(backend, precision)], picture, tell=logging.debug)
        return
    print(f"comparing {wanted['engine']}, {precision}, with the network itself, once ...", flush=True)
    cases = reference_cases(net, config, picture[1])
    record = verification_record(folder, backend, precision, cases, picture[0], tell=logging.debug)
    description["compared"].append(record)
    write_description(folder, description)


def check_buildable(config: Config, folder: str) -> None:
    """See that engines can be built for, before the weights are loaded.

    Raises:
        CannotBuild: packages are missing, the folder cannot be written, or the network's input has no fixed shape.
    """
    try:
        check_fixed_shape(config, "use --backend=paddle")
        check_packages()
        check_writable(os.path.dirname(folder) or ".", "place for the weights, or use --backend=paddle")
        check_replaceable(folder, "remove it, or use --backend=paddle")
    except UserError as error:
        raise CannotBuild(str(error)) from error
