"""What the linear runs say: the theorem's claims decided, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from experiments.claims import Claim, Standing, all_hold, every, greater, mean_std
from experiments.linear.config import RESOLVED, LinearConfig, Scenario
from experiments.linear.measure import (
    FFA,
    ROLORA,
    ROUNDING,
    TARGET,
    Results,
    above_bound,
    fedavg_name,
)
from experiments.report import Table
from rolora.report.statistics import wilson_interval

Runs = Mapping[str, Results]
"""By the key of the kind of problems."""
Sweep = Mapping[int, Results]
"""By the number of samples."""


# -- claims -------------------------------------------------------------------------------------


def claims(config: LinearConfig, kinds: Mapping[str, Scenario], runs: Runs) -> Iterator[Claim]:
    """The paper's, then those beyond its assumptions."""
    yield from _paper_claims(config, runs)
    yield from _beyond_claims(kinds, runs)


def _paper_claims(config: LinearConfig, runs: Runs) -> Iterator[Claim]:
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


def _beyond_claims(kinds: Mapping[str, Scenario], runs: Runs) -> Iterator[Claim]:
    for key in ("rank", "covariances", "noise", "own_b", "large_step"):
        text = f"The sine reaches 1e-8 with {kinds[key].words}"
        yield _reaches(text, "beyond the theorem's assumptions", runs[key])


def _under_bound(text: str, source: str, run: Results) -> Claim:
    ratios, cosines = run["worst_ratio"], run["cosine"]
    over, n = above_bound(ratios), len(ratios)
    evidence = f"{n - len(over)} of {n} problems; worst ratio to the factor {max(ratios):.6f}"
    if over:
        least = sorted(cosines[p] for p in over)
        evidence += f"; the others start at cosines of {least[0]:.4f} to {least[-1]:.4f}"
    return Claim(text, source, every(n - len(over), n), evidence)


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
    kept = sum(ratio >= 1 - small for ratio in least)
    yield Claim(
        "FFA-LoRA's loss stays above delta0^2 |b*|^2 (1 - small), "
        f"small = 5 sqrt(2 / (N m)) = {small:.3f}",
        "Proposition 4.6; its constant is not known here",
        every(kept, len(least)),
        f"{kept} of {len(least)} problems; least ratio {min(least):.3f} on the clients' samples, "
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


# -- tables and words ---------------------------------------------------------------------------


def tables(
    config: LinearConfig, kinds: Mapping[str, Scenario], runs: Runs, sweep: Sweep
) -> Iterator[Table]:
    """Beside the paper; every kind of problems; the bound over samples."""
    yield _paper_table(config, runs["paper"])
    yield _scenario_table(config, kinds, runs)
    yield _sweep_table(sweep)


def summary(config: LinearConfig) -> str:
    """What was run, as a paragraph."""
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


def _scenario_table(config: LinearConfig, kinds: Mapping[str, Scenario], runs: Runs) -> Table:
    methods = (ROLORA, fedavg_name(1), fedavg_name(config.local_steps), FFA)
    rows = tuple(
        (
            kind.words,
            f"{config.problems - len(above_bound(runs[key]['worst_ratio']))} of {config.problems}",
            f"{np.median(runs[key]['methods'][ROLORA]['final_sine']):.1e}",
            *(f"{np.median(runs[key]['methods'][name]['final_error']):.1e}" for name in methods),
        )
        for key, kind in kinds.items()
    )
    columns = ("problems", "under the bound", "sine, RoLoRA", *(f"error, {m}" for m in methods))
    title = "In the end, median: sine, and error |A B^T - A* B*^T|_F^2 over |B*|_F^2"
    return Table(title, columns, rows)


def _sweep_table(sweep: Sweep) -> Table:
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
