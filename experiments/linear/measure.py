"""What the linear experiment measures: every method on every kind of problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.cells import Cells
from experiments.linear.config import LinearConfig, Scenario
from experiments.linear.theory import (
    Regression,
    Setting,
    Trajectory,
    alt_min_gd,
    contraction,
    draw_problems,
    fedavg_lora,
    ffa,
    ffa_floor,
    population_bound,
    restarted_bound,
    share_above_bound,
    step_size,
    theorem_bound,
)
from experiments.linear.theory.problem import Array

TARGET = 1e-8
"""The sine that Algorithm 2 must reach; of the loss, the share of ``|b*|^2``."""
ROUNDING = 1e-12
"""Below this sine a ratio of two sines says more about float64 than about the algorithm."""
ROLORA, FFA = "RoLoRA (Algorithm 2)", "FFA-LoRA"
Results = Mapping[str, Any]


def measured(cells: Cells, config: LinearConfig, name: str, kind: Scenario) -> Results:
    """Of one kind of problems, from its cell where that is finished."""
    keys = {"seed", "problems", "rounds", "local_steps"}
    settings = {**config.model_dump(include=keys), **asdict(kind.setting), "eta": kind.eta}
    return cells.run(name, settings, lambda: measure(config, kind))


def measure(config: LinearConfig, kind: Scenario) -> Results:
    """Run all methods on the problems of one kind; JSON-able, one list entry a problem or round."""
    problem = draw_problems(config.seed, config.problems, kind.setting)
    eta, rounds = step_size(problem, kind.eta), config.rounds
    runs = {
        ROLORA: alt_min_gd(problem, eta, rounds),
        # B starts where |A| = 1, so that its step has the units of 1, A's those of 1 / |b*|^2.
        fedavg_name(1): fedavg_lora(problem, eta, kind.eta, rounds),
        fedavg_name(config.local_steps): fedavg_lora(
            problem, eta, kind.eta, rounds, config.local_steps
        ),
        FFA: ffa(problem, rounds),
    }
    floor = ffa_floor(problem)
    cosine = np.linalg.norm(problem.A_star.swapaxes(-1, -2) @ problem.A0, ord=-2, axis=(-2, -1))
    return {
        "methods": {name: _trace(problem, run) for name, run in runs.items()},
        "bounds": {
            "Theorem 4.5": _middle(theorem_bound(problem, eta, rounds)),
            "Theorem 4.5, applied anew each round": _middle(restarted_bound(problem, eta, rounds)),
            "infinitely many samples": _middle(population_bound(problem, eta, rounds)),
        },
        "factor": contraction(problem, eta).tolist(),
        "cosine": cosine.tolist(),
        "worst_ratio": worst_ratio(runs[ROLORA].sine, contraction(problem, eta)).tolist(),
        "ffa_least_over_floor": (runs[FFA].loss.min(axis=1) / floor).tolist(),
        "ffa_loss_over_floor": (runs[FFA].loss[:, -1] / floor).tolist(),
        "ffa_error_over_floor": (runs[FFA].error[:, -1] / floor).tolist(),
    }


def fedavg_name(local_steps: int) -> str:
    """What FedAvg of LoRA is called in tables and keys."""
    return f"FedAvg of LoRA, {local_steps} local step{'s' if local_steps > 1 else ''}"


def worst_ratio(sines: Array, factor: Array) -> Array:
    """The largest ``sin(t + 1) / (factor sin(t))`` of each problem; the theorem says at most 1."""
    before, after = sines[:, :-1], sines[:, 1:]
    counted = before > ROUNDING
    ratio = np.divide(after, before * factor[:, None], out=np.zeros_like(after), where=counted)
    return ratio.max(axis=1)


def _trace(problem: Regression, run: Trajectory) -> dict[str, Any]:
    """A method's rounds as quantiles over problems, and each problem's end."""
    size = (problem.b_singular_values**2).sum(axis=-1, keepdims=True)
    reached = run.loss <= TARGET * size
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return {
        "sine": _quantiles(run.sine),
        "loss": _quantiles(run.loss / size),
        "rounds_to_target": first.tolist(),
        "half_way_sine": run.sine[:, run.sine.shape[1] // 2].tolist(),
        "final_sine": run.sine[:, -1].tolist(),
        "final_loss": (run.loss / size)[:, -1].tolist(),
        "final_error": (run.error / size)[:, -1].tolist(),
    }


def _quantiles(values: Array) -> dict[str, list[float]]:
    # "lower" picks a problem's own value, so that a diverged neighbour does not make it NaN.
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0, method="lower")
    return {"low": low.tolist(), "median": median.tolist(), "high": high.tolist()}


def _middle(values: Array) -> list[float]:
    return np.median(values, axis=0).tolist()


def swept(cells: Cells, config: LinearConfig, m: int) -> Results:
    """At `m` samples, from its cell where that is finished."""
    setting = Setting(d=config.d, k=config.k, clients=config.clients, m=m)
    settings = {
        "seed": config.seed,
        "problems": config.sweep_problems,
        "rounds": config.sweep_rounds,
        "eta": config.eta,
        **asdict(setting),
    }
    return cells.run(f"bound_at_m={m}", settings, lambda: sweep(config, setting))


def sweep(config: LinearConfig, setting: Setting) -> Results:
    """Random starts held against the bound at one number of samples."""
    problem = draw_problems(config.seed, config.sweep_problems, setting)
    eta = step_size(problem, config.eta)
    sines = alt_min_gd(problem, eta, config.sweep_rounds).sine
    return {
        "above": len(above_bound(worst_ratio(sines, contraction(problem, eta)))),
        "problems": config.sweep_problems,
        "predicted": share_above_bound(setting, config.eta),
    }


def above_bound(ratios: Sequence[float] | Array) -> list[int]:
    """The problems whose sine was above the theorem's bound in some round."""
    return [p for p, ratio in enumerate(ratios) if ratio > 1 + ROUNDING]
