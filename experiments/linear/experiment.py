"""Algorithm 2 and its theorem, on random linear regressors.

The problem, the bound and the derivations are in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator
from rich.console import Console

from experiments.framework import (
    Cells,
    Claim,
    ReproduceResult,
    Standing,
    Table,
    all_hold,
    command_line,
    every,
    greater,
    mean_std,
    output_directory,
    versions,
    write_experiment_report,
)
from experiments.linear.figure import CAPTION, draw
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
from rolora.config import NonNegative, Positive, Section, Seed, parse_overrides
from rolora.report.statistics import wilson_interval

NAME = "linear"
TARGET = 1e-8
"""The sine that Algorithm 2 must reach; of the loss, the share of ``|b*|^2``."""
ROUNDING = 1e-12
"""Below this sine a ratio of two sines says more about float64 than about the algorithm."""
RESOLVED = 5.0
"""Standard errors ``1 / sqrt(N m)`` between a start and the plane orthogonal to ``a*``."""
ROLORA, FFA = "RoLoRA (Algorithm 2)", "FFA-LoRA"
Results = Mapping[str, Any]


class LinearConfig(Section):
    """The experiment. `eta` is in units of ``1 / |b*|^2``, where ``1/2`` is the largest step for
    which the bound is derived. `local_steps` are those of the second FedAvg of LoRA; `r`, `noise`,
    `condition` and `spread` each make one row beyond the theorem's assumptions, and `samples` are
    the sizes at which `sweep_problems` starts are held against the bound for `sweep_rounds`.
    """

    seed: Seed = 0
    problems: Positive = 100
    d: Positive = 20
    k: Positive = 8
    clients: Positive = 5
    m: Positive = 400
    eta: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    rounds: Annotated[int, Field(ge=2)] = 200
    local_steps: Annotated[int, Field(ge=2)] = 10
    r: Annotated[int, Field(ge=2)] = 4
    noise: NonNegative = 0.1
    condition: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 10.0
    spread: NonNegative = 0.5
    samples: Annotated[tuple[Positive, ...], Field(min_length=1)] = (25, 50, 100, 200, 400, 800)
    sweep_problems: Positive = 400
    sweep_rounds: Positive = 50

    @model_validator(mode="after")
    def _rank_fits(self) -> LinearConfig:
        if self.r > min(self.d, self.k, self.m):
            raise ValueError(
                f"r = {self.r} is more than min(d, k, m) = {min(self.d, self.k, self.m)}"
            )
        return self


@dataclass(frozen=True)
class Scenario:
    """Problems of one kind and the step with which they are run."""

    words: str
    setting: Setting
    eta: float


def scenarios(config: LinearConfig) -> dict[str, Scenario]:
    """The paper's assumptions first, then one departure each."""
    paper = Setting(d=config.d, k=config.k, clients=config.clients, m=config.m)
    eta = config.eta
    return {
        "paper": Scenario("the paper's assumptions", paper, eta),
        "resolved": Scenario(
            "the same, resolved starts only", replace(paper, resolved=RESOLVED), eta
        ),
        "rank": Scenario(f"rank {config.r}", replace(paper, r=config.r), eta),
        "covariances": Scenario(
            f"own covariances, condition {config.condition:g}",
            replace(paper, condition=config.condition),
            eta,
        ),
        "noise": Scenario(f"noise {config.noise:g}", replace(paper, noise=config.noise), eta),
        "own_b": Scenario(
            f"own b_i*, spread {config.spread:g}", replace(paper, spread=config.spread), eta
        ),
        "large_step": Scenario("step 1 / |b*|^2", paper, 1.0),
    }


def run_linear(
    overrides: Sequence[str], out: Path | None = None, console: Console | None = None
) -> ReproduceResult:
    """Run the experiment, write its report into `out`, print and return it.

    Raises:
        BadInput: an override is wrong, or the sizes do not fit together.
    """
    console = console or Console(quiet=True)
    config = parse_overrides(LinearConfig, overrides, f"reproduce {NAME}")
    directory = output_directory(NAME, out)
    cells = Cells(directory / "cells", console.out)
    kinds = scenarios(config)
    runs = {key: _measured(cells, config, key, kind) for key, kind in kinds.items()}
    sweep = {m: _swept(cells, config, m) for m in config.samples}
    tables = (
        _paper_table(config, runs["paper"]),
        _scenario_table(config, kinds, runs),
        _sweep_table(sweep),
    )
    claims = (*_paper_claims(config, runs), *_beyond_claims(kinds, runs))
    result = ReproduceResult(NAME, directory, tables, claims)
    write_experiment_report(
        directory,
        title="Algorithm 2 and its theorem",
        command=command_line(NAME, overrides, out),
        summary=_summary(config),
        tables=tables,
        claims=claims,
        figures={NAME: (draw(runs["paper"], sweep), CAPTION)},
        results={"paper": runs["paper"], "samples": sweep},
        settings=config.model_dump(mode="json"),
        versions=versions("numpy"),
    )
    result.show(console)
    return result


# -- running ------------------------------------------------------------------------------------


def _measured(cells: Cells, config: LinearConfig, name: str, kind: Scenario) -> Results:
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


def _swept(cells: Cells, config: LinearConfig, m: int) -> Results:
    setting = Setting(d=config.d, k=config.k, clients=config.clients, m=m)
    settings = {
        "seed": config.seed,
        "problems": config.sweep_problems,
        "rounds": config.sweep_rounds,
        "eta": config.eta,
        **asdict(setting),
    }
    return cells.run(f"bound_at_m={m}", settings, lambda: _sweep(config, setting))


def _sweep(config: LinearConfig, setting: Setting) -> Results:
    """Random starts held against the bound at one number of samples."""
    problem = draw_problems(config.seed, config.sweep_problems, setting)
    eta = step_size(problem, config.eta)
    sines = alt_min_gd(problem, eta, config.sweep_rounds).sine
    return {
        "above": len(_above(worst_ratio(sines, contraction(problem, eta)))),
        "problems": config.sweep_problems,
        "predicted": share_above_bound(setting, config.eta),
    }


def _above(ratios: Sequence[float] | Array) -> list[int]:
    """The problems whose sine was above the theorem's bound in some round."""
    return [p for p, ratio in enumerate(ratios) if ratio > 1 + ROUNDING]


# -- claims -------------------------------------------------------------------------------------


def _paper_claims(config: LinearConfig, runs: Mapping[str, Results]) -> Iterator[Claim]:
    standard_error = 1 / np.sqrt(config.clients * config.m)
    yield _under_bound(
        "Under the bound in every round, from every start whose cosine with a* is at least "
        f"{RESOLVED:g} / sqrt(N m) = {RESOLVED * standard_error:.3f}",
        "Theorem 4.5, with our reading of enough samples",
        runs["resolved"],
    )
    yield _under_bound(
        f"Under the bound in every round, from any random start, at m = {config.m}",
        "Theorem 4.5, taken without its condition on m",
        runs["paper"],
    )
    yield _reaches("Algorithm 2 converges: the sine reaches 1e-8", "Theorem 4.5", runs["paper"])
    yield from _floor_claims(runs["paper"], small=RESOLVED * np.sqrt(2) * standard_error)
    yield _below_ffa(runs["paper"])
    yield _in_between(fedavg_name(1), "with as many gradients of A", runs["paper"])
    steps = config.local_steps
    yield _in_between(fedavg_name(steps), f"with {steps} times the gradients", runs["paper"])


def _beyond_claims(kinds: Mapping[str, Scenario], runs: Mapping[str, Results]) -> Iterator[Claim]:
    for key in ("rank", "covariances", "noise", "own_b", "large_step"):
        text = f"The sine reaches 1e-8 with {kinds[key].words}"
        yield _reaches(text, "beyond the theorem's assumptions", runs[key])


def _under_bound(text: str, source: str, run: Results) -> Claim:
    ratios, cosines = run["worst_ratio"], run["cosine"]
    above, n = _above(ratios), len(ratios)
    evidence = f"{n - len(above)} of {n} problems; worst ratio to the factor {max(ratios):.6f}"
    if above:
        least = sorted(cosines[p] for p in above)
        evidence += f"; the others start at cosines of {least[0]:.4f} to {least[-1]:.4f}"
    return Claim(text, source, every(n - len(above), n), evidence)


def _reaches(text: str, source: str, run: Results) -> Claim:
    """Reached in every problem; not decided where all the rest are still on their way."""
    trace = run["methods"][ROLORA]
    ends = list(zip(trace["half_way_sine"], trace["final_sine"], strict=True))
    late = [(half_way, end) for half_way, end in ends if not end <= TARGET]
    standing: Standing = every(len(ends) - len(late), len(ends))
    if late and all(end < half_way / 10 for half_way, end in late):
        standing = "not decided at this size"
    finals = trace["final_sine"]
    evidence = (
        f"{len(ends) - len(late)} of {len(ends)} problems; sine after the last round: "
        f"median {np.median(finals):.1e}, largest {max(finals):.1e}"
    )
    return Claim(text, source, standing, evidence)


def _floor_claims(run: Results, small: float) -> Iterator[Claim]:
    least, ends = run["ffa_least_over_floor"], run["ffa_loss_over_floor"]
    errors = run["ffa_error_over_floor"]
    above = sum(ratio >= 1 - small for ratio in least)
    yield Claim(
        "FFA-LoRA's loss stays above delta0^2 |b*|^2 (1 - small), "
        f"small = 5 sqrt(2 / (N m)) = {small:.3f}",
        "Proposition 4.6; its constant is not known here",
        every(above, len(least)),
        f"{above} of {len(least)} problems; least ratio {min(least):.3f} on the clients' samples, "
        f"{min(errors):.6f} in expectation over new ones",
    )
    near = sum(abs(ratio - 1) <= small for ratio in ends)
    yield Claim(
        "FFA-LoRA's loss ends at delta0^2 |b*|^2, up to the same small",
        "derived here",
        every(near, len(ends)),
        f"{near} of {len(ends)} problems; ratio {mean_std(ends)} on the clients' samples, "
        f"{mean_std(errors, 5)} in expectation over new ones",
    )


def _below_ffa(run: Results) -> Claim:
    ours, theirs = (
        [float(np.log10(max(loss, 1e-32))) for loss in run["methods"][name]["final_loss"]]
        for name in (ROLORA, FFA)
    )
    standing, evidence = greater(theirs, ours)
    return Claim(
        "RoLoRA ends at a lower loss than FFA-LoRA",
        "Theorem 4.5 and Proposition 4.6",
        standing,
        f"log10 of the loss over |b*|^2: FFA-LoRA {evidence}",
    )


def _in_between(name: str, work: str, run: Results) -> Claim:
    """Slower than RoLoRA to a loss that FFA-LoRA never reaches."""
    fedavg, ours, never = (_rounds(run, method) for method in (name, ROLORA, FFA))
    standing, evidence = greater(fedavg, ours)
    kept_off = sum(rounds == _most(run) for rounds in never)
    return Claim(
        f"{name}, {work}, lies between RoLoRA and FFA-LoRA in rounds to a loss of 1e-8 |b*|^2",
        "not the paper's; expected of averaging both factors",
        all_hold(standing, every(kept_off, len(never))),
        f"{evidence}; FFA-LoRA not within {_most(run) - 1} rounds in {kept_off} of {len(never)}",
    )


def _most(run: Results) -> int:
    """One round more than were run: what a problem that never reached its target counts."""
    return len(run["bounds"]["Theorem 4.5"])


def _rounds(run: Results, method: str) -> list[float]:
    first = run["methods"][method]["rounds_to_target"]
    return [float(_most(run) if rounds < 0 else rounds) for rounds in first]


# -- tables -------------------------------------------------------------------------------------


def _summary(config: LinearConfig) -> str:
    return (
        f"{config.problems} random problems with d = {config.d}, k = {config.k}, "
        f"{config.clients} clients of {config.m} samples, rank one, no noise, isotropic Gaussian "
        f"inputs, step {config.eta:g} / |b*|^2, {config.rounds} rounds, float64. "
        "Assumptions, statements and derivations are in docs/theory.md."
    )


def _paper_table(config: LinearConfig, run: Results) -> Table:
    measured = run["methods"][ROLORA]["sine"]["median"]
    shrink = [after / before for before, after in pairwise(measured) if before > ROUNDING]
    rows = (
        (
            "factor on the sine a round, median problem",
            f"at most {np.median(run['factor']):.3f}: sqrt(1 - eta (1 - delta0^2) |b*|^2)",
            f"{min(shrink):.3f} to {max(shrink):.3f}",
        ),
        (
            "FFA-LoRA's loss over delta0^2 |b*|^2",
            "at least 1 + c, c not known here",
            mean_std(run["ffa_loss_over_floor"]),
        ),
        *(
            (f"rounds to a loss of 1e-8 |b*|^2, {name}", "no number", _rounds_in_words(run, name))
            for name in run["methods"]
        ),
    )
    return Table(f"The paper's assumptions, m = {config.m}", ("", "paper", "here"), rows)


def _rounds_in_words(run: Results, name: str) -> str:
    reached = [rounds for rounds in _rounds(run, name) if rounds < _most(run)]
    n = len(run["factor"])
    if not reached:
        return f"never in {_most(run) - 1} rounds"
    rest = "" if len(reached) == n else f", {n - len(reached)} of {n} never"
    return mean_std(reached) + rest


def _scenario_table(
    config: LinearConfig, kinds: Mapping[str, Scenario], runs: Mapping[str, Results]
) -> Table:
    methods = (ROLORA, fedavg_name(1), fedavg_name(config.local_steps), FFA)
    rows = tuple(
        (
            kind.words,
            f"{config.problems - len(_above(runs[key]['worst_ratio']))} of {config.problems}",
            f"{np.median(runs[key]['methods'][ROLORA]['final_sine']):.1e}",
            *(f"{np.median(runs[key]['methods'][name]['final_error']):.1e}" for name in methods),
        )
        for key, kind in kinds.items()
    )
    columns = ("problems", "under the bound", "sine, RoLoRA", *(f"error, {m}" for m in methods))
    title = "In the end, median: sine, and error |A B^T - A* B*^T|_F^2 over |B*|_F^2"
    return Table(title, columns, rows)


def _sweep_table(sweep: Mapping[int, Results]) -> Table:
    rows = []
    for m, found in sweep.items():
        share = found["above"] / found["problems"]
        low, high = wilson_interval(share, found["problems"])
        rows.append(
            (
                str(m),
                f"{found['above']} of {found['problems']}",
                f"{share:.3f} ({low:.3f} to {high:.3f})",
                f"{found['predicted']:.3f}",
            )
        )
    columns = ("m", "above the bound in some round", "share (95 % interval)", "derived here")
    return Table("Random starts above the theorem's bound, by samples", columns, tuple(rows))
