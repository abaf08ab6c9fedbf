"""The readings, one cell each; data, model and its inputs are kept between them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any, TypedDict

import torch
from torch import Tensor

from experiments.cells import Cells
from experiments.reconstruction.config import (
    CLIENTS,
    DEFENCES,
    Case,
    Defence,
    ReconstructionConfig,
)
from experiments.trials import Loader, Trial, in_groups
from experiments.workspace import Workspace
from rolora.attacks.reconstruction import Inputs, Upload, read
from rolora.attacks.trial import state_after
from rolora.config import OptimizerConfig
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, ServerState
from rolora.data import Examples
from rolora.engines.preparation import prepare

ROUNDED = 6**-0.5
"""How far off a number is that was rounded at random to whole steps, in the root mean square."""


class Result(TypedDict):
    """What came back, in the mean over the batches that were read: the share of a batch's tokens
    that was found, the share of those read that are right, and what is found by naming as many of
    the most frequent tokens of other texts; tokens in a batch; seconds for one.
    """

    found: float
    right: float
    guessed: float
    tokens: float
    seconds: float


Results = Mapping[Case, Result]


@dataclass(frozen=True)
class Reading(Trial):
    """A cell.

    Args:
        case: which.
        before: rounds before the one that is attacked.
        sites: whose batches are read.
    """

    case: Case
    before: int
    sites: int

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        defence = DEFENCES[self.case.defence]
        own = {"noise": defence.noise, "sum": defence.sites, "factor": self.case.factor}
        return {**super().settings(), **own, "before": self.before, "sites": self.sites}


class Reader(Loader):
    """Reads batches; keeps the model's inputs, and what a run of each rank had come to."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, Inputs] = {}
        self.states: dict[str, ServerState] = {}

    def work(self, reading: Reading) -> Result:
        """Read the batches of some sites.

        Raises:
            BadInput: something in the config cannot be had or does not fit.
        """
        prepared, case = self.prepared(reading), reading.case
        config, defence = prepared.config, DEFENCES[case.defence]
        if config.model.name not in self.inputs:
            self.inputs[config.model.name] = Inputs.of(prepared.model, config.data.max_length)
        inputs, state = self.inputs[config.model.name], self._state(reading)
        special = set(prepared.pretrained.tokenizer.all_special_ids)
        examples, found = prepared.examples["train"], list[Result]()
        for first in range(reading.sites):
            begin = time.perf_counter()
            clients = [(first + k) % CLIENTS for k in range(defence.sites)]
            seen = [Upload.of(prepared, state, client) for client in clients]
            change, noise = observed(seen, defence, config.seed)
            rows = torch.cat([one.rows for one in seen])
            most, true = int(examples.lengths[rows].sum()), tokens_of(examples, rows) - special
            # Noise is left out of what is read, or not: whichever shows more.
            tries = [
                {token for token, _ in read(change, seen[0].start, inputs, most, floor)} - special
                for floor in sorted({noise, 0.0})
            ]
            best = max(tries, key=lambda tokens: len(tokens & true) / len(tokens | true))
            frequent = [token for token in most_frequent(examples, rows) if token not in special]
            found.append(
                Result(
                    found=len(best & true) / len(true),
                    right=len(best & true) / max(1, len(best)),
                    guessed=len(true & set(frequent[: len(true)])) / len(true),
                    tokens=len(true),
                    seconds=time.perf_counter() - begin,
                )
            )
        return mean_of(found)

    def _state(self, reading: Reading) -> ServerState:
        """What the run had come to, before the round in which the factor trains."""
        case, prepared = reading.case, self.prepared(reading)
        wanted = reading.before + (case.factor == "A")
        key = f"{case.rank} {case.seed} {wanted}"
        if key not in self.states:
            usual = OptimizerConfig(lr=5e-3, local_steps=4, batch_size=8)
            config = prepared.config.model_copy(update={"optimizer": usual, "stages": ()})
            self.states[key] = state_after(prepare(config, self.loaded), wanted)
        return self.states[key]


def observed(seen: Sequence[Upload], defence: Defence, seed: int) -> tuple[Adapter, float]:
    """What is seen of some sites' changes behind a defence, and the standard deviation of the noise
    in it as far as it is known.
    """
    layout = seen[0].change.layout
    change = torch.stack([upload.change.flat for upload in seen]).sum(0)
    noise = 0.0
    if defence.noise:
        noise = defence.noise * float(change.norm())
        generator = torch_generator(seed, "reconstruction", "noise")
        change = change + noise * torch.randn(change.shape, generator=generator)
    if defence.int8:
        levels = [change[a:b].abs().max() / 127 for a, b, _ in layout.spans.values()]
        noise = ROUNDED * float(torch.stack(levels).mean())
    return Adapter(layout, change), noise


def tokens_of(examples: Examples, rows: Tensor) -> set[int]:
    """Those that stand in some examples."""
    return {token for row in rows.tolist() for token in text_of(examples, row)}


def mean_of(results: Sequence[Result]) -> Result:
    """The mean of each number."""
    return Result(
        found=fmean(one["found"] for one in results),
        right=fmean(one["right"] for one in results),
        guessed=fmean(one["guessed"] for one in results),
        tokens=fmean(one["tokens"] for one in results),
        seconds=fmean(one["seconds"] for one in results),
    )


def most_frequent(examples: Examples, but: Tensor) -> list[int]:
    """The tokens of a thousand other examples, the most frequent first."""
    left_out = set(but.tolist())
    others = (row for row in range(len(examples)) if row not in left_out)
    counts = Counter(token for row in islice(others, 1000) for token in text_of(examples, row))
    return [token for token, _ in counts.most_common()]


def text_of(examples: Examples, row: int) -> list[int]:
    """The tokens of one example."""
    assert examples.offsets is not None
    start, end = examples.offsets[row : row + 2].tolist()
    tokens: list[int] = examples.tokens["input_ids"][start:end].tolist()
    return tokens


def reading_of(config: ReconstructionConfig, case: Case) -> Reading:
    """A case as a cell."""
    return Reading(case.name, config.run_of(case), False, case, config.before, config.sites)


def run_all(config: ReconstructionConfig, workspace: Workspace) -> dict[Case, Result]:
    """Make the readings, and give those that are finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    cases = list(config.cases())
    readings = [reading_of(config, case) for case in cases]
    if not config.finished:
        in_groups("readings", readings, Reader(), workspace, config.workers)
    cells = Cells(workspace.directory / "cells")
    kept = [cells.kept(reading.name, reading.settings()) for reading in readings]
    return {case: found for case, found in zip(cases, kept, strict=True) if found is not None}
