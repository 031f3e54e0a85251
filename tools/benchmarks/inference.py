"""tools/benchmark.py --inference: engines beside each other, from the bare network to COCO results of many pictures."""
from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import multiply_adds, set_threads

# isort: split
import numpy as np
import paddle

from data.config import cfg
from tools.benchmarks import tables
from tools.benchmarks.accuracy import measure_accuracy
from tools.benchmarks.agreement import agreement
from tools.benchmarks.clock import summary
from tools.benchmarks.engines import (
    EAGER,
    Engine,
    choose_engines,
    load_engines,
    measure_overlapped,
    measure_rounds,
)
from tools.benchmarks.machine import measure_ceilings
from tools.benchmarks.pictures import choose_pictures, make_up_weights
from tools.benchmarks.scaling import measure_scaling
from tools.benchmarks.versus import THEIRS, eval_command, measure_versus, split_command, try_command
from utils.engines import PRECISIONS, processor, version_of
from utils.networks import load_network
from utils.predictor import Predictor, as_image


def network_gflop(weights: str, config: Any, prepared: np.ndarray) -> float:
    """1e9 multiplications and additions of the network for one picture float32 [3, S, S]."""
    net = load_network(weights, config)
    return 2 * multiply_adds(net, paddle.to_tensor(prepared[np.newaxis])) / 1e9


def engine_figures(rounds: dict[str, Any], eager: dict[str, Any], passes: dict[str, Any], gflop: float,
                   ceiling: float | None) -> dict[str, Any]:
    """The figures of one engine.

    Args:
        rounds: of `measure_rounds`, `eager` those of EAGER. passes: of `measure_overlapped`.
        gflop: of the network for one picture. ceiling: GFLOP/s of this machine at this precision; None: not measured.
    """
    whole, whole_eager = (np.sum(list(part["stages"].values()), axis=0) for part in (rounds, eager))
    around = whole - rounds["stages"]["network"]
    network = summary(rounds["network"])
    gflops = gflop / network["median_ms"] * 1e3
    count = len(whole)
    ratios = np.divide(passes["network_seconds"], passes["seconds"])
    return {
        "network": {**network, "gflops": gflops, "of_ceiling": gflops / ceiling if ceiling else None,
                    "times_eager": float(np.median(np.divide(eager["network"], rounds["network"])))},
        "picture": {**summary(whole), "fps": 1 / float(np.median(whole)),
                    "times_eager": float(np.median(whole_eager / whole))},
        "overlapped": {"fps": count / float(np.median(passes["seconds"])), "of_bare_network": float(np.median(ratios))},
        "stages": {**{name: summary(seconds) for name, seconds in rounds["stages"].items()},
                   tables.AROUND: summary(around)}}


def measure_inference(loaded: dict[Engine, tuple[Predictor, Predictor]], paths: Sequence[str], gflop: float,
                      ceilings: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Every engine on all pictures; {its name: figures}, the fastest of each precision under "fastest".

    Args:
        loaded: of `load_engines`. gflop: of the network for one picture. ceilings: of `measure_ceilings`.
        on_gpu: the ceilings are those of a GPU, where only Paddle computes for sure.
    """
    rounds = measure_rounds({engine: single for engine, (single, _) in loaded.items()}, paths)
    passes = measure_overlapped({engine: many for engine, (_, many) in loaded.items()}, paths)
    figures: dict[Engine, dict[str, Any]] = {}
    for engine in loaded:
        there = engine.backend == "paddle" or not on_gpu
        ceiling = ceilings.get(engine.precision, {}).get("gflops") if there else None
        figures[engine] = {"backend": f"{version_of(engine.backend)}, {engine.precision}",
                           **engine_figures(rounds[engine], rounds[EAGER], passes[engine], gflop, ceiling),
                           "agreement": agreement(passes[EAGER]["found"], passes[engine]["found"])}
    fastest: dict[str, Engine] = {}
    for engine in sorted(loaded, key=lambda engine: -figures[engine]["picture"]["fps"]):
        fastest.setdefault(engine.precision, engine)
    return {"engines": {str(engine): figures[engine] for engine in loaded},
            "fastest": {precision: str(fastest[precision]) for precision in PRECISIONS if precision in fastest}}


def own_commands(args: argparse.Namespace, weights: str, fastest: Mapping[str, str]) -> dict[str, list[str]]:
    """eval.py with the fastest engine of each precision, by what the table is to call it."""
    options = [f"--cuda={args.cuda}"]
    if args.trained_model is not None:  # made-up weights have everything in their own config
        options += [f"--config={args.config}"] * (args.config is not None)
        options += [f"--dataset={args.dataset}"] * (args.dataset is not None)
        options += ["-o", *args.override] * bool(args.override)
    return {f"eval.py, {name}": eval_command(weights, name.split(), options) for name in fastest.values()}


def run_inference(args: argparse.Namespace, weights: str | None, folder: str, device: str, threads: int,
                  environment: Mapping[str, str]) -> dict[str, Any]:
    """Everything of --inference, printed as it comes; returns the figures.

    Args:
        args: of the command line. weights: path of the weights, or None for random ones.
        folder: takes what is made up. device: Paddle's, "gpu" or "cpu". threads: of the CPU.
        environment: of the commands of --versus.

    Raises:
        UserError: the engines, the pictures or the command are not there or do not work.
    """
    engines, left_out = choose_engines(args.backends, args.precisions, device == "gpu")
    paths, name = choose_pictures(args, os.path.join(folder, "pictures"))
    print(f"pictures: {name}", flush=True)
    theirs = None if args.versus is None else try_command(split_command(args.versus), paths, environment)
    weights = weights or make_up_weights(os.path.join(folder, f"{cfg.name}.safetensors"), paths[0])
    precisions = list(dict.fromkeys(engine.precision for engine in [EAGER, *engines]))
    ceilings = measure_ceilings(device == "gpu", precisions, threads)
    loaded, failed = load_engines(engines, weights, cfg.to_dict(), args.cuda, must=args.backends is not None)
    single = loaded[EAGER][0]
    gflop = network_gflop(weights, cfg, single.transform(as_image(paths[0])))
    figures: dict[str, Any] = {
        "weights": args.trained_model or "random", "pictures": name, "count": len(paths),
        "processor": processor(), "threads": threads, "ceilings": ceilings, "left_out": left_out + failed,
        "gflop": gflop}
    print(tables.machine_report(figures), flush=True)
    figures.update(measure_inference(loaded, paths, gflop, ceilings, device == "gpu"))
    print(tables.engines_report(figures["engines"], len(paths)), flush=True)
    for name in figures["fastest"].values():
        print(tables.stages_report(name, figures["engines"][name]["stages"]), flush=True)
    if args.accuracy:
        figures["accuracy"] = measure_accuracy({engine: many for engine, (_, many) in loaded.items()})
        print(tables.accuracy_report(figures["accuracy"]), flush=True)
    set_threads(1)  # as beside an engine
    figures["scaling"] = measure_scaling(single, cfg, folder)
    print(tables.scaling_report(figures["scaling"]), flush=True)
    if args.plots:
        print("\n".join(f"written: {path}" for path in tables.plot_scaling(figures["scaling"], args.plots)))
    if theirs:
        commands = {THEIRS: theirs, **own_commands(args, weights, figures["fastest"])}
        figures["versus"] = measure_versus(commands, paths, environment)
        print(tables.versus_report(figures["versus"]), flush=True)
    return figures
