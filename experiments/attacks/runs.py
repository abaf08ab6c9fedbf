"""The runs of the attacks' table, one cell each; data, model and what its frozen layers make of the
texts are kept between them.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from torch import Tensor

from experiments.attacks.config import DEFENCES, AttacksConfig, Case
from experiments.cells import Cells
from experiments.pooled import pooled
from experiments.trials import Loader, Trial, in_groups
from experiments.workspace import Workspace
from rolora.attacks import ATTACKS
from rolora.attacks.trial import drawn, outcome
from rolora.core.section import Section
from rolora.data import Examples
from rolora.model.lora import LoraModel
from rolora.tasks.classification import Classification


class Result(TypedDict):
    """How a run came out: test accuracy (None: it failed), the share of the test texts of other
    labels that the phrase gives its label, how often an update of a hostile client and of an honest
    one was refused, seconds.
    """

    accuracy: float | None
    obeyed: float | None
    refused_hostile: int
    refused_honest: int
    seconds: float


Results = Mapping[Case, Result]


@dataclass(frozen=True)
class Attacked(Trial):
    """A run under attack: a cell.

    Args:
        case: which.
    """

    case: Case

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, JSON-able. Without an attack the fraction is no more than
        what the config tells the defence.
        """
        attack = self.case.attack
        fraction = None if attack is None else self.case.fraction
        return {**super().settings(), "attack": attack, "fraction": fraction}


class Pooled(Classification):
    """Classification by adapters in BERT's pooler, which is given the mean of a text's token states
    below the last layer: in a small encoder that tells more than the first token's alone. What lies
    below is frozen and sees each text by itself, so that it is asked once for each, whatever run or
    split the text comes from.

    Args:
        options: of the task.
        states: by the text's key that mean, ``[d]``; filled here.
    """

    def __init__(self, options: Section, states: dict[bytes, Tensor]):
        super().__init__(options)
        self.states = states
        self.filled = weakref.WeakKeyDictionary[Examples, Tensor]()

    def outputs(
        self,
        model: LoraModel,
        data: Examples,
        rows: Tensor,
        again: bool,
        streams: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the pooler and the classifier make of the means."""
        body: Any = model.module
        if data not in self.filled:
            self.filled[data] = pooled(data, body, self.states)
        means = self.filled[data][rows, None]
        logits: Tensor = body.classifier(body.bert.pooler(means))
        return logits, data.targets[rows]


class Attacker(Loader):
    """Runs cases."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[bytes, Tensor] = {}

    def work(self, trial: Attacked) -> Result:
        """Run all rounds of `trial`, and test. Without an attack the phrase is tried all the same.

        Raises:
            BadInput: something in its config cannot be had or does not fit.
        """
        case, prepared = trial.case, self.prepared(trial)
        prepared = replace(prepared, task=Pooled(prepared.task.options, self.states))
        hostile = () if case.attack is None else drawn(trial.config, case.fraction)
        begin = time.perf_counter()
        found = outcome(prepared, ATTACKS[case.attack or "backdoor"], hostile)
        return Result(
            accuracy=found.score,
            obeyed=found.backdoor,
            refused_hostile=sum(n for client, n in found.named.items() if client in hostile),
            refused_honest=sum(n for client, n in found.named.items() if client not in hostile),
            seconds=round(time.perf_counter() - begin, 2),
        )


def trial_of(config: AttacksConfig, case: Case) -> Attacked:
    """A case as a cell. A defence that is told nothing is one and the same at every fraction while
    nobody is hostile.
    """
    where = case.attack is not None or DEFENCES[case.defence].told
    who = case.attack or "nobody"
    share = f" {case.fraction:g}" if where else ""
    name = f"{who}{share} {case.defence} seed={case.seed}"
    return Attacked(name, config.run_of(case), True, case)


def run_all(config: AttacksConfig, workspace: Workspace) -> dict[Case, Result]:
    """Make the runs, wave by wave, and give those that are finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    worker = Attacker()
    if not config.finished:
        for number, cases in enumerate(config.waves(), start=1):
            trials = [trial_of(config, case) for case in cases]
            in_groups(f"wave {number}", trials, worker, workspace, config.workers)
    return dict(_finished(config, Cells(workspace.directory / "cells")))


def _finished(config: AttacksConfig, cells: Cells) -> Iterator[tuple[Case, Result]]:
    for case in (case for cases in config.waves() for case in cases):
        trial = trial_of(config, case)
        found = cells.kept(trial.name, trial.settings())
        if found is not None:
            yield case, found
