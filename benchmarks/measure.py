"""Measuring variants of one piece of work: interleaved, checked equal, peak memory, hot spots."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

PACKAGES = ("rolora", "torch", "transformers", "peft", "numpy")
OPERATIONS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "mkldnn_linear"),
    "attention": ("_scaled_dot_product", "_softmax", "_safe_softmax"),
    "GELU and layer norm": ("gelu", "layer_norm"),
    "optimiser": ("_foreach", "_fused_adam", "addcmul", "addcdiv", "lerp", "sqrt"),
    "embedding": ("embedding",),
}
"""What torch's operations count as in "where the time goes", by the beginnings of their names."""


@dataclass(frozen=True)
class Work:
    """One variant, set up.

    Args:
        run: is timed and gives what must agree between variants.
        reset: brings it back to where it began; not timed.
        sample: a piece of `run` in this thread, to see where the time goes.
        stages: seconds of the last run by stage.
    """

    run: Callable[[], Tensor]
    reset: Callable[[], None] = lambda: None
    sample: Callable[[], object] | None = None
    stages: Callable[[], Mapping[str, float]] = dict


@dataclass(frozen=True)
class Workload:
    """Variants of the same work.

    Args:
        title: what is done, in one line.
        variants: by name, what sets a variant up; the first is the one that the others are
            compared with.
        targets: by variant, how many times as fast as the first it is to be.
        tolerance: by variant, how far its result may be from the first's: the norm of the
            difference over the first's norm. Variants left out are not compared.
        arriving: by variant, what sets it up to have its memory measured, where that differs.
        repeats: how often each variant is run.
        warm_up: whether each is run once more before, untimed; not where a run takes a minute.
    """

    title: str
    variants: Mapping[str, Callable[[], Work]]
    targets: Mapping[str, float]
    tolerance: Mapping[str, float]
    arriving: Mapping[str, Callable[[], Work]] = field(default_factory=dict)
    repeats: int = 3
    warm_up: bool = True


@dataclass(frozen=True)
class Times:
    """Seconds of one variant, run by run: on the clock, and of processor time in all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleaved(
    works: Mapping[str, Work], repeats: int, warm_up: bool = True
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Run all variants `repeats` times in turn, every other time in reverse, after one warm-up
    where that is wanted.

    Returns:
        the times and the last results, by variant.
    """
    times = {name: Times() for name in works}
    results: dict[str, Tensor] = {}
    for turn in range(0 if warm_up else 1, repeats + 1):
        for name in list(works) if turn % 2 else reversed(list(works)):
            works[name].reset()
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = works[name].run()
            if turn:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times, results


def difference(ours: Tensor, theirs: Tensor) -> float:
    """``|ours - theirs| / |theirs|``."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def summary(
    workload: Workload, times: Mapping[str, Times], results: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Per variant: times, ratios over the first, the distance from its result, the target."""
    first = next(iter(workload.variants))
    rows = {}
    for name, own in times.items():
        wall, cpu = median(own.wall), median(own.cpu)
        rows[name] = {
            "seconds": [round(value, 4) for value in own.wall],
            "cpu_seconds": [round(value, 4) for value in own.cpu],
            "median_seconds": round(wall, 4),
            "ratio": round(median(times[first].wall) / wall, 2),
            "cpu_ratio": round(median(times[first].cpu) / cpu, 2),
            "target": workload.targets.get(name),
            "difference": difference(results[name], results[first]),
            "max_difference": float((results[name] - results[first]).abs().max()),
            "tolerance": workload.tolerance.get(name),
        }
    return rows


def disagreements(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The variants whose results are further from the first's than they may be."""
    return [
        f"{name}: differs by {row['difference']:.1e}, may by {row['tolerance']:.0e}"
        for name, row in rows.items()
        if row["tolerance"] is not None and not row["difference"] <= row["tolerance"]
    ]


def peak_memory(build: Callable[[bool], Workload], quick: bool, variant: str) -> dict[str, float]:
    """Resident MB of a process of its own that has set `variant` up, and its peak in one run."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (build, quick, variant))


def _peak(build: Callable[[bool], Workload], quick: bool, variant: str) -> dict[str, float]:
    workload = build(quick)
    work = {**workload.variants, **workload.arriving}[variant]()
    gc.collect()
    before = _restart_peak()
    work.run()
    return {"set_up_mb": before, "peak_mb": resident_peak()}


def _restart_peak() -> float:
    """Resident MB; on Linux the peak is counted from here, elsewhere from the process's start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident_peak()


def resident_peak(process: int | str = "self") -> float:
    """The most resident MB of a process so far; of another process on Linux alone."""
    status = Path(f"/proc/{process}/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return round(int(lines[0].split()[1]) / 2**10, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # macOS: bytes


def where_time_goes(function: Callable[[], object]) -> dict[str, float]:
    """Shares of `function`'s time on one thread, by kind of operation; the rest is Python's.

    Taken under torch's profiler, which makes small operations look larger than they are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    function()
    begin = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        function()
    total = 1e6 * (time.perf_counter() - begin)
    torch.set_num_threads(threads)
    shares = dict.fromkeys((*OPERATIONS, "other operations"), 0.0)
    for event in profiler.key_averages():
        if "::" in event.key:
            shares[_kind(event.key.split("::")[-1])] += event.self_cpu_time_total / total
    shares["Python and autograd"] = max(0.0, 1.0 - sum(shares.values()))
    return {kind: round(share, 3) for kind, share in shares.items()}


def _kind(operation: str) -> str:
    name = operation.removeprefix("native_")
    for kind, beginnings in OPERATIONS.items():
        if any(name == item or name.startswith((item + "_", item)) for item in beginnings):
            return kind
    return "other operations"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    lines: Sequence[str] = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
