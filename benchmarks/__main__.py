"""``python -m benchmarks [NAME ...] [--repeats N] [--out DIR] [--quick]``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import accuracy, aggregation, encoders, flower, language_model, two_layer
from benchmarks.measure import (
    disagreements,
    interleaved,
    machine,
    peak_memory,
    summary,
    where_time_goes,
)

WORKLOADS = {
    "two_layer": two_layer.two_layer,
    "minilm": encoders.minilm,
    "base_encoder": encoders.base_encoder,
    "upper_half": encoders.upper_half,
    "smollm2": language_model.smollm2,
    "mean": aggregation.mean,
    "flexlora_svd": aggregation.flexlora_svd,
}
"""Variants side by side; these and :data:`OTHERS` run where no name is given."""
OTHERS = {"flower_nodes": flower.flower_nodes}
"""What measures and shows itself, or says why it does not."""
LONG = {"bfloat16_accuracy": accuracy.bfloat16_accuracy}
"""What runs only when named: tens of minutes."""
RESULTS = Path(__file__).parent / "results"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="which; all but the long ones")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="runs of each variant")] = None,
    out: Annotated[Path | None, typer.Option(help="directory for the JSON files")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="small sizes: to see that it runs")
    ] = False,
) -> None:
    """Measure, print, write one JSON file a name; exit code 1 where results disagree."""
    console, wrong = Console(), []
    directory = out or (RESULTS / "quick" if quick else RESULTS)
    for name in names or [*WORKLOADS, *OTHERS]:
        if name in OTHERS | LONG:
            record = (OTHERS | LONG)[name](quick, console)
        elif name in WORKLOADS:
            record = measured(name, quick, repeats, console)
            wrong += [f"{name}: {line}" for line in disagreements(record["variants"])]
        else:
            raise typer.BadParameter(f"{name}; known: {', '.join([*WORKLOADS, *OTHERS, *LONG])}")
        if record is None:
            continue
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": name, "quick": quick, "machine": machine(), **record}, indent=1)
        (directory / f"{name}.json").write_text(text + "\n")
    for line in wrong:
        console.print(f"[red]results disagree: {line}")
    raise typer.Exit(1 if wrong else 0)


def measured(name: str, quick: bool, repeats: int | None, console: Console) -> dict[str, Any]:
    """Run one workload and show it."""
    workload, load = WORKLOADS[name](quick), os.getloadavg()
    console.rule(f"{name}: {workload.title}", align="left")
    works = {variant: build() for variant, build in workload.variants.items()}
    turns = repeats or (1 if quick else workload.repeats)
    times, results = interleaved(works, turns, workload.warm_up)
    rows = summary(workload, times, results)
    for variant, work in works.items():
        rows[variant]["stages"] = {k: round(v, 4) for k, v in work.stages().items()}
        if work.sample is not None:
            rows[variant]["time_shares"] = where_time_goes(work.sample)
    works.clear()
    for variant in rows:
        rows[variant]["memory"] = peak_memory(WORKLOADS[name], quick, variant)
    console.print(times_table(rows), shares_table(rows))
    return {"title": workload.title, "load_average_before": load, "variants": rows}


def times_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Seconds, ratios, memory and distance of every variant."""
    table = Table("variant", "seconds", "ratio", "CPU ratio", "target", "peak MB", "difference")
    for variant, row in rows.items():
        target = f"{row['target']:g}" if row["target"] else ""
        memory = f"{row['memory']['peak_mb']:,.0f} ({row['memory']['set_up_mb']:,.0f} set up)"
        table.add_row(
            variant,
            f"{row['median_seconds']:.3f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            target,
            memory,
            f"{row['difference']:.1e}",
        )
    return table


def shares_table(rows: Mapping[str, Mapping[str, Any]]) -> Table | str:
    """Where the time goes."""
    profiled = {name: row["time_shares"] for name, row in rows.items() if "time_shares" in row}
    if not profiled:
        return ""
    table = Table("where the time goes, on one thread", *profiled)
    kinds: Sequence[str] = list(next(iter(profiled.values())))
    for kind in kinds:
        table.add_row(kind, *(f"{shares[kind]:.0%}" for shares in profiled.values()))
    return table


if __name__ == "__main__":
    typer.run(main)
