"""A run across machines: the connection to its sites, and what they said of their data."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rolora.client.objective import check_shares
from rolora.config import (
    Config,
)
from rolora.core.errors import BadInput, RunFailed
from rolora.core.shares import count_of
from rolora.core.types import Failure, Layout, one_line
from rolora.engines.flower.messages import SPLITS
from rolora.engines.flower.settings import _readable, require_flower
from rolora.engines.given import NOTHING, Given
from rolora.engines.preparation import DataFacts, Ready, TrainingEngine, checked_method
from rolora.methods import Method
from rolora.model.loading import resolve_device
from rolora.model.lora import check_ranks
from rolora.records.bounds import HEADER_BYTES
from rolora.server.ledger import Ledger
from rolora.tasks import Task

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from rolora.engines.flower.messages import ClientFacts
    from rolora.engines.flower.results import Transport

SITE_SECTIONS = {"engine", "checkpoint"}
"""Sections of a run's config that do not concern its sites."""


_STRAGGLERS_S = 10.0
_GREETING_BYTES = 2 * HEADER_BYTES
"""At most, of an answer before the first round: what a site says of its data."""


@contextmanager
def connected(
    config: Config, notice: Callable[[str], None], given: Given = NOTHING
) -> Iterator[Ready]:
    """A run over the clients that ``rolora server`` on this machine has connected, or, with
    ``engine.runtime: simulation``, over Flower's own simulation.

    Raises:
        BadInput: the config does not fit, or the clients' labels do not agree.
        RunFailed: the server, or a quorum of the clients, is not there.
    """
    require_flower()
    from rolora.engines.flower import launch
    from rolora.engines.flower.session import flower_run
    from rolora.engines.flower.transport import FlowerTransport

    engine = config.engine
    given.check_for_sites()
    checked_method(config)
    task = given.make_task(config)
    check_shares(config, task)

    def carrier(grid: Grid, outages: list[str]) -> FlowerTransport:
        return FlowerTransport(grid, hello(config), outages, _GREETING_BYTES)

    if engine.runtime == "simulation":
        from rolora.engines.flower.simulation import simulation

        with simulation(config, hello(config)) as grid:
            yield joined(config, task, carrier(grid, []), notice)
        return
    resolve_device(config.model.device)
    if engine.authority is not None:
        _readable("engine.authority", engine.authority)
    authority = engine.authority and engine.authority.resolve()
    outages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rolora-") as directory:
        home, where = Path(directory), (engine.superlink, authority, engine.patience)
        launch.prepare(home, engine.superlink, authority)
        with flower_run(home, *where, outages.append) as grid:
            yield joined(config, task, carrier(grid, outages), notice)


def hello(config: Config) -> list[bytes]:
    """What every site is told of a run."""
    from rolora.engines.flower.messages import pack_hello

    return pack_hello(config.model_dump(mode="json", exclude=SITE_SECTIONS))


def joined(
    config: Config, task: Task, transport: Transport, notice: Callable[[str], None]
) -> Ready:
    """A run over the clients that `transport` reaches, once a quorum of them is there.

    Raises:
        BadInput: the config does not fit, or the clients' labels do not agree.
        RunFailed: a quorum of the clients is not there.
    """
    method = checked_method(config)
    federation = Federation(config, task, transport, *_gather(config, task, transport, notice))
    pretrained = task.backbone(config.model, federation.names, config.seed)
    model = task.adapted(pretrained, config)
    check_ranks(model, config.lora)
    labels = json.dumps(federation.names)
    return Ready(
        config=config,
        method=method,
        task=task,
        pretrained=pretrained,
        model=model,
        data=f"labels {labels} of {config.federation.clients} sites, which check their own",
        facts=federation.facts,
        engine=lambda run, ledger: federation.engine(run, ledger, method, model.layout),
    )


def _gather(
    config: Config, task: Task, transport: Transport, notice: Callable[[str], None]
) -> tuple[tuple[str, ...], dict[int, ClientFacts]]:
    """Wait for the clients; the names of the model's outputs, and what each says of its data."""
    from rolora.engines.flower.engine import read_facts, wrong_labels

    clients = range(config.federation.clients)
    wanted = count_of(config.federation.quorum, len(clients))
    notice(f"waiting for {len(clients)} clients")

    def read() -> tuple[dict[int, ClientFacts], list[Failure]]:
        there = [(c, frames) for c, frames in transport.clients.items() if c in clients]
        said = {client: read_facts(client, frames, task, config) for client, frames in there}
        unsound = [facts for facts in said.values() if isinstance(facts, Failure)]
        return {c: f for c, f in said.items() if not isinstance(f, Failure)}, unsound

    seen, unsound = read()
    while transport.wait_for(wanted + len(unsound), config.engine.patience, clients):
        before, (seen, unsound) = len(unsound), read()
        if len(unsound) <= before:
            break
    transport.wait_for(len(clients), _STRAGGLERS_S, clients)
    seen, unsound = read()
    for node, why in transport.refusals.items():
        notice(f"node {node} does not join: {one_line(why)}")
    for failure in unsound:
        notice(f"client {failure.client} does not take part: {failure.detail}")
    if len(seen) < wanted:
        raise RunFailed(
            f"{len(seen)} of {len(clients)} clients have joined at {config.engine.superlink} "
            f"within {config.engine.patience:g} s; federation.quorum needs {wanted}"
        )
    names = labels_of(seen)
    others = {client: facts for client, facts in seen.items() if facts.names != names}
    for client, facts in others.items():
        said = wrong_labels(facts, names)
        if len(seen) - len(others) < wanted:
            raise BadInput(f"client {client}: {said}")
        notice(f"client {client} does not take part: {said}")
    notice(f"{len(seen) - len(others)} of {len(clients)} clients have joined")
    return names, seen


def labels_of(seen: Mapping[int, ClientFacts]) -> tuple[str, ...]:
    """The labels of most clients; of as many, those of the first."""
    counts = Counter(seen[client].names for client in sorted(seen))
    return counts.most_common(1)[0][0]


@dataclass(frozen=True)
class Federation:
    """The clients of a run, and what they said of their data."""

    config: Config
    task: Task
    transport: Transport
    names: tuple[str, ...]
    seen: dict[int, ClientFacts]

    def engine(
        self, run: str, ledger: Ledger, method: Method, layout: Callable[[int], Layout]
    ) -> TrainingEngine:
        """The engine of one run."""
        from rolora.engines.flower.engine import FlowerEngine, RunFacts

        facts = RunFacts(run, self.task, self.names, layout, method.rules())
        return FlowerEngine(self.transport, self.config, facts, ledger, self.seen)

    def facts(self) -> DataFacts:
        """What the clients that ever joined with the run's labels said of their data, put together;
        where one of them does not tell its strata, how much each has and no more.
        """
        own = {c: facts for c, facts in self.seen.items() if facts.names == self.names}
        seen = own.values()
        told = {c: facts.strata["train"] for c, facts in own.items() if facts.strata}
        strata = self.task.strata_names(self.names) if len(told) == len(seen) else ()
        train = told if strata else {c: [facts.examples["train"]] for c, facts in own.items()}
        none = [0] * max(len(strata), 1)
        prints = "".join(own[c].fingerprint for c in sorted(own))
        return DataFacts(
            names=self.names,
            examples={split: sum(facts.examples[split] for facts in seen) for split in SPLITS},
            strata=strata,
            strata_table=[list(train.get(c, none)) for c in range(self.config.federation.clients)],
            test_from="; ".join(sorted({facts.test_from for facts in seen})),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        )
