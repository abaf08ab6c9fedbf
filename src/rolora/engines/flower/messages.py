"""What server and site say to each other, as frames: a JSON header, a plan, tensors.

The tensors that several clients are sent are one frame, which the transport packs once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rolora.core.types import EMPTY, Adapter, Evaluation, Part, Plan, Update
from rolora.engines.flower.worker import Frames
from rolora.records import bounds, wire
from rolora.records.bounds import WireError, told
from rolora.tasks import Task

PROTOCOL = 6
"""Raised whenever a server and a site of different versions could misunderstand each other."""


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Request:
    """What a client is asked to do.

    Args:
        do: ``train``, or ``evaluate`` the model of `plan` on the examples of `split`.
        run: which run it is; what a client keeps for itself belongs to one run.
        plan: as the server's ledger narrowed it.
        digests: per part, the digest of the version that `plan` counts on.
        split: ``validation`` or ``test``.
        settled: the last round that no restart of the server will go back behind.
        dealt: in a secure sum, what the update is masked with.
    """

    do: str
    run: str
    plan: Plan
    digests: Mapping[Part, str]
    split: str = ""
    settled: int = 0
    dealt: bytes = b""


@dataclass(frozen=True)
class Step:
    """A step of a secure sum but the masked update (:mod:`rolora.secure`).

    Args:
        step: which.
        run: which run it is.
        round: of the run.
        text: what is told in it.
    """

    step: str
    run: str
    round: int
    text: bytes


@dataclass(frozen=True)
class ClientFacts:
    """What a site tells of its data when it joins: counts and names, no example.

    Args:
        names: what the model's outputs stand for, in order.
        examples: per split, the number of examples.
        strata: per split, the number of examples of each stratum; None: it does not tell.
        test_from: where its test examples come from.
        fingerprint: a digest of its examples.
    """

    names: tuple[str, ...]
    examples: Mapping[str, int]
    strata: Mapping[str, Sequence[int]] | None
    test_from: str
    fingerprint: str


@dataclass
class Packer:
    """Packs the requests of one exchange; tensors that several are sent become one frame."""

    frames: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    def __call__(self, request: Request) -> list[bytes]:
        """The frames of a request."""
        plan = request.plan
        sent = sorted((part, plan.versions[part]) for part in plan.send.parts)
        steps = [(step.part, step.since, step.version) for step in plan.increments]
        key = (plan.rank, *sent, *steps)
        if key not in self.frames:
            self.frames[key] = wire.pack_sent(plan)
        header = {
            "do": request.do,
            "run": request.run,
            "digests": dict(request.digests),
            "split": request.split,
            "settled": request.settled,
        }
        bare = wire.pack_plan(replace(plan, send=EMPTY, increments=()))
        frames = [json.dumps(header).encode(), bare, self.frames[key]]
        return [*frames, request.dealt] if request.dealt else frames


def unpack_request(frames: Frames) -> Request:
    """The inverse of :class:`Packer`.

    Raises:
        WireError: not a request.
    """
    try:
        header, bare, tensors, *dealt = frames
        fields = json.loads(header)
        send, increments = wire.unpack_sent(tensors)
        plan = replace(wire.unpack_plan(bare), send=send, increments=increments)
        return Request(plan=plan, dealt=b"".join(dealt), **fields)
    except (ValueError, TypeError) as error:
        raise WireError(f"not a request ({error})") from None


def pack_step(step: Step) -> list[bytes]:
    """A request for a step."""
    header = {"step": step.step, "run": step.run, "round": step.round}
    return [json.dumps(header).encode(), step.text]


def unpack_step(frames: Frames) -> Step:
    """The inverse of :func:`pack_step`.

    Raises:
        WireError: not a request for a step.
    """
    said = told(bounds.Step, _first(frames), "a step of a sum")
    return Step(said.step, said.run, said.round, bytes(frames[1]))


def pack_answer(text: bytes) -> list[bytes]:
    """A site's answer to a step."""
    return [b'{"kind": "step"}', text]


def unpack_answer(frames: Frames) -> bytes:
    """The inverse of :func:`pack_answer`.

    Raises:
        WireError: not an answer to a step.
    """
    told(bounds.StepFollows, _first(frames), "an answer to a step of a sum")
    if len(frames) != 2:
        raise WireError(f"not an answer to a step of a sum ({len(frames)} frames)")
    return bytes(frames[1])


def pack_hello(config: Mapping[str, Any]) -> list[bytes]:
    """The server's first word to a site: the settings of the run."""
    hello = {"do": "hello", "protocol": PROTOCOL, "config": dict(config)}
    return [json.dumps(hello).encode()]


def pack_facts(facts: ClientFacts) -> list[bytes]:
    """A site's answer to the hello."""
    return [json.dumps({"protocol": PROTOCOL, **vars(facts)}).encode()]


def unpack_facts(frames: Frames, task: Task, most: int) -> ClientFacts:
    """The inverse of :func:`pack_facts`.

    Args:
        frames: what a site sent.
        task: of the run, which says how many strata there are.
        most: examples that a site may have in a split.

    Raises:
        WireError: not an answer to a hello.
    """
    said = told(bounds.Facts, _first(frames), "an answer to a hello")
    wanted = len(task.strata_names(said.names))
    if len(said.examples) < len(SPLITS):
        raise WireError("not an answer to a hello (a split is missing)")
    for split, count in said.examples.items():
        if count > most:
            raise WireError(
                f"it says that it has {count} {split} examples; federation.max_examples allows "
                f"{most}"
            )
    for split, counts in (said.strata or {}).items():
        if len(counts) != wanted or sum(counts) != said.examples[split]:
            raise WireError("not an answer to a hello (counts by stratum)")
    examples: dict[str, int] = dict(said.examples.items())
    strata: dict[str, Sequence[int]] | None = None
    if said.strata is not None:
        strata = dict(said.strata.items())
    return ClientFacts(said.names, examples, strata, said.test_from, said.fingerprint)


def pack_update(update: Update) -> list[bytes]:
    """A trained client's answer."""
    return [b'{"kind": "update"}', wire.pack_update(update)]


def pack_evaluations(evaluations: Sequence[Evaluation]) -> list[bytes]:
    """An evaluated client's answer; none where it has no held-out examples."""
    numbers = [vars(evaluation) for evaluation in evaluations]
    return [json.dumps({"kind": "evaluations", "evaluations": numbers}).encode()]


def pack_stale(held: Mapping[Part, Sequence[int]]) -> list[bytes]:
    """The answer of a client that lacks a part: the versions that it does hold."""
    return [json.dumps({"kind": "stale", "held": {p: list(v) for p, v in held.items()}}).encode()]


def unpack_stale(frames: Frames) -> dict[str, list[int]] | None:
    """The versions held by a client that lacks a part; None for any other answer."""
    try:
        said = told(bounds.Stale, _first(frames), "a list of versions")
    except WireError:
        return None
    return {part: list(versions) for part, versions in said.held.items()}


def unpack_update(frames: Frames) -> Update:
    """The update in an answer.

    Raises:
        WireError: the answer holds none.
    """
    told(bounds.UpdateFollows, _first(frames), "an update")
    if len(frames) != 2:
        raise WireError(f"not an update ({len(frames)} frames)")
    return wire.unpack_update(frames[1])


def unpack_evaluations(
    frames: Frames, client: int, task: Task, names: tuple[str, ...]
) -> list[Evaluation]:
    """The evaluation in an answer of `client`, or none where it has no held-out examples.

    Raises:
        WireError: not evaluations, or numbers that cannot be.
    """
    said = told(bounds.Evaluations, _first(frames), "evaluations")
    found = [Evaluation(client, each.num_examples, each.sums) for each in said.evaluations]
    for evaluation in found:
        try:
            task.check(evaluation.sums, evaluation.num_examples, names)
        except ValueError as error:
            raise WireError(f"not evaluations ({error})") from None
    return found


def _first(frames: Frames) -> bytes:
    """The frame that says what the others are."""
    if not frames:
        raise WireError("an answer without a frame")
    return bytes(frames[0])


def digest(adapter: Adapter) -> str:
    """A short name for exactly these tensors, the same on every machine."""
    content = hashlib.blake2b(repr(adapter.layout.entries).encode(), digest_size=16)
    content.update(adapter.flat.contiguous().cpu().numpy().data)
    return content.hexdigest()
