"""The engine across machines: plans go out to sites, updates come back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from rolora.client.replica import Replica, restored
from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.rules import ClientRule
from rolora.core.shares import count_of
from rolora.core.types import (
    Adapter,
    ClientInfo,
    Evaluation,
    Failure,
    Key,
    Layout,
    Part,
    Plan,
    RoundNotes,
    ServerState,
    Update,
    base_part,
    one_line,
)
from rolora.engines.flower.messages import (
    SPLITS,
    ClientFacts,
    Packer,
    Request,
    Step,
    digest,
    pack_step,
    unpack_answer,
    unpack_evaluations,
    unpack_facts,
    unpack_stale,
    unpack_update,
)
from rolora.engines.flower.results import NodeError, Reply, Transport
from rolora.engines.flower.worker import Frames
from rolora.records.bounds import sound
from rolora.records.wire import payload_bytes, plan_bytes
from rolora.secure.forms import beside
from rolora.server.engine import PLAIN
from rolora.server.ledger import Ledger
from rolora.stages import make_chain
from rolora.tasks import Task

_A_WEEK_S = 7 * 24 * 3600.0
_HEADERS_BYTES = 2**16
_NUMBER_BYTES = 32
"""At most, of a number of an evaluation, as text."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFacts:
    """Which run an engine serves.

    Args:
        run: the same after a restart of the server, another for every run.
        task: what is learned, and how it is scored.
        names: of the model's outputs, that every site must have.
        layout: the layout of an adapter of a given rank.
        rules: what clients do beside plain training.
    """

    run: str
    task: Task
    names: tuple[str, ...]
    layout: Callable[[int], Layout]
    rules: tuple[ClientRule, ...]


class FlowerEngine:
    """Carries out plans on the clients that are connected.

    All clients of the config are enrolled, whether connected or not: the cohort of a round is the
    same whoever is there, and one who is absent has failed in the round. What the ledger believes
    a client to hold is checked by the client, version and content; what it lacks after all, for
    instance because it was restarted, it is sent in the same round.

    Args:
        transport: to the clients, whose answer to the hello are :class:`ClientFacts`.
        config: the run's settings.
        facts: which run it is.
        ledger: of the run; what an evaluation sends is noted there as well.
        seen: what every client that ever joined said of its data; kept up to date here.
    """

    def __init__(
        self,
        transport: Transport,
        config: Config,
        facts: RunFacts,
        ledger: Ledger,
        seen: dict[int, ClientFacts],
    ):
        self.transport, self.config, self.facts, self.ledger = transport, config, facts, ledger
        self.seen = seen
        self._heard: dict[int, list[bytes]] = {}  # what each connected client said when it joined
        self._unsound: dict[int, Failure] = {}
        self._declared: dict[int, tuple[int, ...]] = {}
        self._down = make_chain(config.server.stages)
        self.mirrors: dict[int, Replica] = {}
        self._apart = Ledger()  # of evaluations at another rank than the client's own
        self._checkpointed: list[int] = []
        self._eval_failures: list[Failure] = []
        self._faults: list[str] = []
        self._sent_besides = 0

    @property
    def clients(self) -> list[ClientInfo]:
        """All clients, by id; of one that never joined the number of examples is not known."""
        self._meet()
        return [
            self.config.client(client, self._examples(client))
            for client in range(self.config.federation.clients)
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs stand for."""
        return self.facts.names

    def registered(self, client: int) -> int:
        """The number of training examples that the client gave when it first joined."""
        self._meet()
        return self._examples(client)

    def _examples(self, client: int) -> int:
        return self.seen[client].examples["train"] if client in self.seen else 0

    def train(
        self, plans: Sequence[Plan], dealt: Mapping[int, bytes] = PLAIN
    ) -> Iterator[Update | Failure]:
        """Have the plans carried out; answers come as they arrive, one for each."""
        self._await_quorum([plan.client for plan in plans])
        for plan in plans:
            self._mirror(plan.rank).start(plan, self.facts.rules)
        for plan, answer in self._exchange(plans, "train", dealt=dealt):
            if isinstance(answer, Failure):
                yield answer
            else:
                yield sound(plan.client, partial(_update, plan, answer))

    def exchange(
        self, step: str, round_number: int, texts: Mapping[int, bytes]
    ) -> Iterator[tuple[int, bytes | Failure]]:
        """Have each client answer a step of a secure sum; answers come as they arrive."""
        self._await_quorum(list(texts))
        refused = self._refused(texts)
        yield from refused.items()
        requests = {
            client: pack_step(Step(step, self.facts.run, round_number, text))
            for client, text in texts.items()
            if client not in refused
        }
        most = _HEADERS_BYTES + 2 * beside(self.config.federation.cohort_size)[0]
        for client, answer in self._send(requests, most):
            if isinstance(answer, Failure):
                yield client, answer
            else:
                yield client, sound(client, partial(unpack_answer, answer))

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """Evaluate on every connected client; one that gives no usable answer is left out and
        noted.

        Raises:
            RunFailed: no client answered.
        """
        self._await_quorum(range(self.config.federation.clients))
        self._mirror(plan.rank).take(plan)
        plans = [
            self._ledger(client, plan.rank).narrow(replace(plan, client=client))
            for client in range(self.config.federation.clients)
        ]
        found: dict[int, list[Evaluation]] = {}
        silent = True
        for narrowed, answer in self._exchange(plans, "evaluate", split):
            client, ledger = narrowed.client, self._ledger(narrowed.client, plan.rank)
            silent &= isinstance(answer, Failure)
            evaluated = self._evaluated(client, split, answer)
            if isinstance(evaluated, Failure):
                ledger.failed(client)
                self._eval_failures.append(evaluated)
                log.warning("client %s was not evaluated: %s", client, evaluated.reason)
            else:
                ledger.replied(narrowed)
                found[client] = evaluated
        if silent:
            raise RunFailed(f"no client answered when asked to evaluate on its {split} examples")
        return [evaluation for client in sorted(found) for evaluation in found[client]]

    def _evaluated(
        self, client: int, split: str, answer: list[bytes] | Failure
    ) -> list[Evaluation] | Failure:
        """The evaluations in an answer, or what is wrong with it."""
        if isinstance(answer, Failure):
            return answer
        task, held = self.facts.task, self.seen[client].examples[split]

        def read() -> list[Evaluation] | Failure:
            found = unpack_evaluations(answer, client, task, self.facts.names)
            examples = sum(each.num_examples for each in found)
            if examples > held:
                detail = f"it evaluated {examples} {split} examples and joined with {held}"
                return Failure(client, "num_examples", detail)
            for each in found:
                task.scores(each.sums)  # what cannot be scored alone is not added to the others'
            return found

        return sound(client, read)

    def take_notes(self) -> RoundNotes:
        """Clients that were not evaluated, outages, waits for a quorum, a restart; bytes."""
        faults = [*self._faults, *self.transport.outages]
        notes = RoundNotes(self._eval_failures, faults, self._sent_besides)
        self._eval_failures, self._faults, self._sent_besides = [], [], 0
        self.transport.outages.clear()
        return notes

    @property
    def kept(self) -> Mapping[int, Adapter]:
        """Nothing: what a client keeps for itself never leaves its site."""
        return {}

    def tensors(self, round_number: int) -> dict[str, Tensor]:
        """How many examples every client that ever joined has declared, by split; sites keep their
        own. The round is noted as one that a restart finds.
        """
        self._meet()
        self._checkpointed.append(round_number)
        return {f"declared/{c}/examples": torch.tensor(n) for c, n in self._declared.items()}

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up what clients have declared, and what they may hold of the global parts."""
        found = (name.split("/") for name in tensors)
        self._declared = {
            int(client): tuple(tensors[f"declared/{client}/examples"].tolist())
            for kind, client, _ in found
            if kind == "declared"
        }
        self._heard = {}  # which is held against it
        self._faults.append(f"the run was interrupted, and went on after round {state.round}")
        ranks = {self.config.lora.rank_of(i) for i in range(self.config.federation.clients)}
        self.mirrors = restored(state, ranks, self.config.lora.max_rank, self._down)

    def _exchange(
        self, plans: Sequence[Plan], do: str, split: str = "", dealt: Mapping[int, bytes] = PLAIN
    ) -> Iterator[tuple[Plan, list[bytes] | Failure]]:
        """Send the plans and yield each with its answer."""
        by_client = {plan.client: plan for plan in plans}
        refused = self._refused(by_client)
        for client, refusal in refused.items():
            yield by_client.pop(client), refusal
        exchange = _Exchange(self, by_client, do, split, dealt)
        # An update of the right form is about as large as the factors that it is made of.
        largest = max(map(self._answer_bytes, by_client.values()), default=0)
        numbers = sum(self.facts.task.sizes(self.facts.names).values())
        most = _HEADERS_BYTES + 2 * largest + _NUMBER_BYTES * numbers
        for client, answer in self._send(exchange.requests(), most, exchange.complete):
            yield by_client[client], answer

    def _send(
        self,
        requests: Mapping[int, list[bytes]],
        most: int,
        follow_up: Callable[[Reply], Frames | None] = lambda reply: None,
    ) -> Iterator[tuple[int, list[bytes] | Failure]]:
        """Send each client its request; its answer, of `most` bytes, or why there is none."""
        self.transport.max_bytes = most
        deadline = self.config.federation.deadline or _A_WEEK_S
        for result in self.transport.send_and_receive(requests, deadline, follow_up):
            if isinstance(result, NodeError):
                yield result.client, Failure(result.client, result.reason, result.detail)
            else:
                yield result.client, result.frames

    def settled(self) -> int:
        """The last round that no restart goes back behind: that of the oldest checkpoint kept."""
        kept = self._checkpointed[-self.config.checkpoint.keep :]
        return kept[0] if len(kept) == self.config.checkpoint.keep else 0

    def _answer_bytes(self, plan: Plan) -> int:
        """Of an update of the planned form: side parts have the shape of what they are beside."""
        layout = self.facts.layout(plan.rank)
        return sum(payload_bytes(layout.select({base_part(part)})) for part in plan.upload)

    def _refused(self, clients: Iterable[int]) -> dict[int, Failure]:
        """Which connected clients are not asked, and why."""
        self._meet()
        found = {client: self._refusal(client) for client in clients}
        return {client: why for client, why in found.items() if why is not None}

    def _refusal(self, client: int) -> Failure | None:
        if client in self._unsound:
            return self._unsound[client]
        facts = self.seen.get(client)
        if facts is None or facts.names == self.facts.names:
            return None
        return Failure(client, "other_labels", wrong_labels(facts, self.facts.names))

    def _meet(self) -> None:
        """Read what newly connected clients say of their data. What a client first said holds: one
        that joins again with something else is not asked any more, and its numbers of examples are
        held to it after a restart of the server, too.
        """
        there = {
            client: frames
            for client, frames in self.transport.clients.items()
            if client < self.config.federation.clients
        }
        new = {client for client, frames in there.items() if self._heard.get(client) != frames}
        self._unsound = {c: why for c, why in self._unsound.items() if c in there.keys() - new}
        self._heard = there
        for client in new:
            facts = read_facts(client, there[client], self.facts.task, self.config)
            if isinstance(facts, Failure):
                self._unsound[client] = facts
            elif not self._as_declared(client, facts):
                detail = "it joined again, and what it says of its data is not what it said before"
                self._unsound[client] = Failure(client, "other_facts", detail)
            if client in self._unsound:
                log.warning("client %s: %s", client, self._unsound[client].detail)

    def _as_declared(self, client: int, facts: ClientFacts) -> bool:
        """Whether a client says what it said first, in this process or before a restart."""
        numbers = tuple(facts.examples[split] for split in SPLITS)
        first = self._declared.setdefault(client, numbers)
        return first == numbers and self.seen.setdefault(client, facts) == facts

    def _await_quorum(self, clients: Sequence[int]) -> None:
        wanted = count_of(self.config.federation.quorum, len(clients))
        if not self.transport.wait_for(wanted, 0.0, clients):
            few = f"fewer than {wanted} of {len(clients)} clients were there"
            log.warning("%s; waiting", few)
            start = time.monotonic()
            self.transport.wait_for(wanted, self.config.engine.patience, clients)
            self._faults.append(f"{few}; waited {time.monotonic() - start:.0f} s")

    def count(self, plan: Plan) -> None:
        """Note what a plan sends beyond those of the round."""
        self._sent_besides += plan_bytes(plan)

    def _mirror(self, rank: int) -> Replica:
        return self.mirrors.setdefault(rank, Replica(self._down))

    def _ledger(self, client: int, rank: int) -> Ledger:
        return self.ledger if rank == self.config.lora.rank_of(client) else self._apart


class _Exchange:
    """The requests of one round, and what clients turn out to lack."""

    def __init__(
        self,
        engine: FlowerEngine,
        plans: Mapping[int, Plan],
        do: str,
        split: str,
        dealt: Mapping[int, bytes],
    ):
        self.engine, self.plans, self.do, self.split = engine, plans, do, split
        self.dealt = dealt
        self.pack = Packer()
        self.digests: dict[int, dict[tuple[Part, int], str]] = {}
        self.completed: set[int] = set()

    def requests(self) -> dict[int, list[bytes]]:
        """The frames for each client."""
        if self.do == "evaluate":
            for client in self.plans.keys() & self.engine.transport.clients.keys():
                self.engine.count(self.plans[client])
        return {client: self.frames(plan) for client, plan in self.plans.items()}

    def complete(self, reply: Reply) -> Frames | None:
        """For a client that lacks a part: the request with all that it lacks; once."""
        held = unpack_stale(reply.frames)
        if held is None or reply.client in self.completed:
            return None
        self.completed.add(reply.client)
        plan = self.plans[reply.client]
        mirror, tensors = self.engine.mirrors[plan.rank], dict[Key, Tensor]()
        for part, version in plan.versions.items():
            if part not in ("U", "V") and version not in held.get(part, []):
                tensors.update(mirror.held[part, version])
        again = replace(plan, send=Adapter.of(tensors), increments=())
        self.engine.count(again)
        return self.frames(again)

    def frames(self, plan: Plan) -> list[bytes]:
        """A request on the wire."""
        engine = self.engine
        digests = self._digests(plan)
        settled = engine.settled()
        given = (self.do, engine.facts.run, plan, digests, self.split, settled)
        return self.pack(Request(*given, self.dealt.get(plan.client, b"")))

    def _digests(self, plan: Plan) -> dict[Part, str]:
        """Of every version that the plan counts on."""
        known, mirror = self.digests.setdefault(plan.rank, {}), self.engine.mirrors[plan.rank]
        found: dict[Part, str] = {}
        for part, version in plan.versions.items():
            if part in ("U", "V"):
                continue
            if (part, version) not in known:
                known[part, version] = digest(mirror.held[part, version])
            found[part] = known[part, version]
        return found


def read_facts(
    client: int, frames: list[bytes], task: Task, config: Config
) -> ClientFacts | Failure:
    """What a site says of its data when it joins, or what is wrong with it."""
    return sound(client, lambda: unpack_facts(frames, task, config.federation.max_examples))


def _update(plan: Plan, frames: list[bytes]) -> Update | Failure:
    """The update in an answer; of another client's there is none.

    Raises:
        WireError: there is none.
    """
    if unpack_stale(frames) is not None:
        return Failure(plan.client, "stale", "it lacks parts that it has just been sent")
    update = unpack_update(frames)
    if update.client != plan.client:
        return Failure(plan.client, "foreign_client", f"its update is for {update.client}")
    return update


def wrong_labels(facts: ClientFacts, expected: Sequence[str]) -> str:
    """What to do where a client's labels are not those of the others."""
    return (
        f"its labels are {one_line(', '.join(facts.names))}, the others' {', '.join(expected)}; "
        "name them all, in one order, in data.labels of the run's config"
    )
