"""What a config would run, before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from rolora.config import Config
from rolora.engines.estimate import estimate
from rolora.engines.given import NOTHING, Given
from rolora.engines.preparation import build_engine, prepare
from rolora.records.schema import Estimate
from rolora.server.budget import Bytes, next_round, whole_run
from rolora.server.ledger import Ledger


@dataclass(frozen=True)
class RunPlan:
    """What a run is made of.

    Args:
        config: resolved, every key written out.
        method: its title.
        travels: what goes up and down.
        model: its name.
        architecture: Transformers' name of it.
        device: where it lies.
        parameters: of the base model, head included.
        modules: names of the layers that are adapted.
        adapter_parameters: numbers in all factors.
        trained_parameters: numbers that train in round 1.
        examples: by split.
        test_from: where the test examples come from.
        label_names: what the model's outputs stand for, in order.
        client_sizes: each client's number of training examples.
        bytes_up: of round 1, from a full cohort.
        bytes_down: of round 1, to a full cohort that holds nothing yet.
        whole: bytes of all rounds, if every client answers; None where they are not known before.
        estimate: the seconds that a round trains here, and the memory that the run needs.
    """

    config: Config = field(repr=False)
    method: str
    travels: str
    model: str
    architecture: str
    device: str
    parameters: int
    modules: tuple[str, ...]
    adapter_parameters: int
    trained_parameters: int
    examples: dict[str, int]
    test_from: str
    label_names: tuple[str, ...]
    client_sizes: tuple[int, ...]
    bytes_up: int
    bytes_down: int
    whole: Bytes | None
    estimate: Estimate


def plan_of(
    config: Config, given: Given = NOTHING, notice: Callable[[str], None] = warnings.warn
) -> RunPlan:
    """What `config` would run on the simulator.

    Args:
        config: of the run.
        given: objects in place of what it names.
        notice: told what is doubtful.

    Raises:
        BadInput: it does not fit.
    """
    prepared = prepare(config, notice=notice, given=given)
    state = prepared.initial()
    clients = [prepared.client(number) for number in range(config.federation.clients)]
    first = next_round(config, prepared.method, clients, state, Ledger())
    train = prepared.method.plan(state, prepared.client(0)).train
    return RunPlan(
        config=config,
        method=prepared.method.title,
        travels=prepared.method.travels,
        model=config.model.name,
        architecture=prepared.pretrained.model_type,
        device=str(prepared.model.device),
        parameters=prepared.model.num_parameters(),
        modules=tuple(prepared.model.layers),
        adapter_parameters=state.parts.select({"A", "B"}).layout.size,
        trained_parameters=state.parts.select(train).layout.size,
        examples={name: len(examples) for name, examples in prepared.examples.items()},
        test_from=prepared.test_from,
        label_names=tuple(prepared.examples["train"].names),
        client_sizes=tuple(map(len, prepared.shares["train"])),
        bytes_up=first.up,
        bytes_down=first.down,
        whole=whole_run(config, prepared.method, clients, state),
        estimate=estimate(build_engine(prepared), state),
    )
