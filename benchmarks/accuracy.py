"""What bfloat16 costs in accuracy: the preset paper under several seeds, in both precisions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.short_runs import Curve
from rolora.config import Config, load_config
from rolora.engines.preparation import build_engine, prepare
from rolora.report.statistics import describe, paired_difference
from rolora.server.ledger import Ledger
from rolora.server.pooling import scored
from rolora.server.round import run_rounds

DTYPES = ("float32", "bfloat16")


def bfloat16_accuracy(quick: bool, console: Console) -> dict[str, Any]:
    """Test accuracy of the preset paper in float32 and bfloat16, seeds 0 to 4."""
    seeds, rounds = (range(2), 2) if quick else (range(5), 16)
    accuracy: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    seconds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for seed in seeds:
        for dtype in DTYPES:
            overrides = [f"seed={seed}", f"rounds={rounds}", f"model.dtype={dtype}"]
            overrides.append(f"evaluation.every={rounds}")
            begin = time.perf_counter()
            accuracy[dtype].append(test_accuracy(load_config("paper", overrides)))
            seconds[dtype].append(round(time.perf_counter() - begin, 2))
            console.print(f"seed {seed}, {dtype}: {accuracy[dtype][-1]:.4f}")
    pairs = zip(accuracy["bfloat16"], accuracy["float32"], strict=True)
    differences = paired_difference([ours - theirs for ours, theirs in pairs])
    console.print(_table(accuracy))
    return {
        "title": f"bfloat16 beside float32: paper, {rounds} rounds",
        "test_accuracy": accuracy,
        "seconds": seconds,
        "bfloat16_minus_float32": vars(differences),
    }


def test_accuracy(config: Config) -> float:
    """Of the model after all rounds."""
    prepared = prepare(config)
    engine, initial = build_engine(prepared), prepared.initial()
    run = (config, prepared.method, prepared.task, engine)
    state = run_rounds(*run, initial, Ledger(), Curve())
    results = engine.evaluate(prepared.method.evaluation_plan(state), "test")
    return float(scored(prepared.task, results)["accuracy"] or 0.0)


def _table(accuracy: Mapping[str, list[float]]) -> Table:
    table = Table("precision", "test accuracy, mean ± standard deviation", "by seed")
    for dtype, values in accuracy.items():
        spread = describe(values)
        shown = f"{spread.mean:.4f} ± {spread.std:.4f}"
        table.add_row(dtype, shown, " ".join(f"{value:.4f}" for value in values))
    return table
