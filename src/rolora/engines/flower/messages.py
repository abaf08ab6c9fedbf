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
from rolora.records import wire
from rolora.records.wire import WireError
from rolora.tasks import Task

PROTOCOL = 4
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
    """

    do: str
    run: str
    plan: Plan
    digests: Mapping[Part, str]
    split: str = ""
    settled: int = 0


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
        key = (plan.rank, *sent)
        if key not in self.frames:
            self.frames[key] = wire.pack(plan.send, {})
        header = {
            "do": request.do,
            "run": request.run,
            "digests": dict(request.digests),
            "split": request.split,
            "settled": request.settled,
        }
        bare = wire.pack_plan(replace(plan, send=EMPTY))
        return [json.dumps(header).encode(), bare, self.frames[key]]


def unpack_request(frames: Frames) -> Request:
    """The inverse of :class:`Packer`.

    Raises:
        WireError: not a request.
    """
    try:
        header, bare, tensors = frames
        fields = json.loads(header)
        plan = replace(wire.unpack_plan(bare), send=wire.unpack(tensors)[0])
        return Request(plan=plan, **fields)
    except (ValueError, TypeError) as error:
        raise WireError(f"not a request ({error})") from None


def pack_hello(config: Mapping[str, Any]) -> list[bytes]:
    """The server's first word to a site: the settings of the run."""
    hello = {"do": "hello", "protocol": PROTOCOL, "config": dict(config)}
    return [json.dumps(hello).encode()]


def pack_facts(facts: ClientFacts) -> list[bytes]:
    """A site's answer to the hello."""
    return [json.dumps({"protocol": PROTOCOL, **vars(facts)}).encode()]


def unpack_facts(frames: Frames, task: Task) -> ClientFacts:
    """The inverse of :func:`pack_facts`.

    Args:
        frames: what a site sent.
        task: of the run, which says how many strata there are.

    Raises:
        WireError: not an answer to a hello.
    """
    fields = _header(frames)
    try:
        names = tuple(str(name) for name in fields["names"])
        examples = {split: _count(fields["examples"][split]) for split in SPLITS}
        strata = None if fields["strata"] is None else _strata(fields["strata"], examples)
        wanted = len(task.strata_names(names))
        if strata is not None and any(len(counts) != wanted for counts in strata.values()):
            raise WireError("not an answer to a hello (counts by stratum)")
        told = (str(fields["test_from"]), str(fields["fingerprint"]))
        return ClientFacts(names, examples, strata, *told)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"not an answer to a hello ({error})") from None


def _strata(given: Mapping[str, Any], examples: Mapping[str, int]) -> dict[str, list[int]]:
    """Counts by stratum that add up to the examples."""
    strata = {split: [_count(n) for n in given[split]] for split in SPLITS}
    if any(sum(counts) != examples[split] for split, counts in strata.items()):
        raise WireError("not an answer to a hello (counts by stratum)")
    return strata


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise WireError(f"{value!r:.60} is no number of examples")
    return value


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
        fields = _header(frames)
        if fields.get("kind") != "stale":
            return None
        return {str(part): [int(v) for v in held] for part, held in fields["held"].items()}
    except (WireError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def unpack_update(frames: Frames) -> Update:
    """The update in an answer.

    Raises:
        WireError: the answer holds none.
    """
    if len(frames) != 2 or _header(frames).get("kind") != "update":
        raise WireError("not an update")
    return wire.unpack_update(frames[1])


def unpack_evaluations(
    frames: Frames, client: int, task: Task, names: tuple[str, ...]
) -> list[Evaluation]:
    """The evaluation in an answer of `client`, or none where it has no held-out examples.

    Raises:
        WireError: not evaluations, or numbers that cannot be.
    """
    try:
        found = [_evaluation(fields, client) for fields in _header(frames)["evaluations"]]
        if len(found) > 1:
            raise WireError(f"{len(found)} evaluations of one client")
        for evaluation in found:
            task.check(evaluation.sums, evaluation.num_examples, names)
        return found
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"not evaluations ({error})") from None


def _evaluation(fields: Mapping[str, Any], client: int) -> Evaluation:
    sums = {str(name): tuple(map(_number, values)) for name, values in fields["sums"].items()}
    return Evaluation(client, int(fields["num_examples"]), sums)


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise WireError(f"{value!r:.60} is no number")
    return value


def _header(frames: Frames) -> dict[str, Any]:
    try:
        header = json.loads(frames[0])
    except (IndexError, ValueError, RecursionError) as error:
        raise WireError(f"a header that is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise WireError("a header that is no mapping")
    return header


def digest(adapter: Adapter) -> str:
    """A short name for exactly these tensors, the same on every machine."""
    content = hashlib.blake2b(repr(adapter.layout.entries).encode(), digest_size=16)
    content.update(adapter.flat.contiguous().cpu().numpy().data)
    return content.hexdigest()
