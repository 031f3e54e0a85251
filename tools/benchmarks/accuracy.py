"""What --accuracy of tools/benchmark.py measures: COCO's AP of the same weights in every engine."""
from __future__ import annotations

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError

# isort: split
from data.coco import image_order
from eval import evaluate, load_validation_set
from tools.benchmarks.engines import Engine, give_threads
from utils.coco_results import CocoResults, evaluate_results
from utils.predictor import Predictor


def measure_accuracy(predictors: dict[Engine, Predictor]) -> dict[str, dict[str, float]]:
    """Evaluate the config's validation set with every engine.

    Returns: {engine's name: {"bbox": AP, "segm": AP}}, AP 0..1 over all IoU thresholds; no segm without masks.

    Raises:
        UserError: the validation set has no annotations.
    """
    dataset = load_validation_set()
    if not dataset.has_gt:
        raise UserError(f"--accuracy: {dataset.info_file} has no annotations; correct dataset.valid_info")
    order = image_order(dataset.ids)
    figures: dict[str, dict[str, float]] = {}
    for engine, predictor in predictors.items():
        give_threads(predictor)
        results = CocoResults(dataset.label_map)
        evaluate(predictor, dataset, order, results)
        metrics, _ = evaluate_results(dataset.coco, results.lists(), [dataset.ids[position] for position in order])
        figures[str(engine)] = {kind: metrics[kind]["AP"] for kind in ("bbox", "segm") if kind in metrics}
    return figures
