"""A site's answers: it joins a run, trains and evaluates on its own data.

The training is that of the simulator over one client, whose model stays loaded between rounds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rolora.client.evaluation import Batch, Piece, Split
from rolora.client.kept import Kept
from rolora.client.replica import MissingPart, Replica
from rolora.client.runtime import ClientRuntime, first_head, with_own
from rolora.config import Config, parse_config
from rolora.core.memory import give_back
from rolora.core.types import Adapter, Evaluation, Plan, Update
from rolora.engines.flower.kept import KeptStore
from rolora.engines.flower.messages import (
    PROTOCOL,
    ClientFacts,
    Request,
    Step,
    digest,
    pack_answer,
    pack_evaluations,
    pack_facts,
    pack_stale,
    pack_update,
    unpack_request,
    unpack_step,
)
from rolora.engines.flower.policy import Agreed
from rolora.engines.flower.told import Declined
from rolora.engines.flower.worker import Frames
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel
from rolora.model.peft_format import save_adapter
from rolora.records.atomic import write_atomic
from rolora.records.rundir import by_name, may_change
from rolora.records.wire import WireError
from rolora.secure.fixed import Withheld
from rolora.secure.forms import STEPS, Opened, Refused
from rolora.stages import BadMessage

if TYPE_CHECKING:
    from rolora.secure.party import Party
    from rolora.secure.vouching import Vouching

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteModel:
    """A site's model and data, loaded for the settings of a run.

    Args:
        config: the run's settings with the site's own in place.
        pretrained: as loaded.
        model: the same with LoRA layers.
        runtime: how its client trains.
        splits: its own examples, one share of each split.
        facts: what the server is told.
        agreed: what it may be asked.
        scores: whether the sums are told of which scores are made.
        vouching: who says, in the secure sums of a run, whose keys are whose; None: its server.
        replicas: the global parts that it holds, by rank.
    """

    config: Config
    pretrained: Pretrained
    model: LoraModel
    runtime: ClientRuntime
    splits: Mapping[str, Split]
    facts: ClientFacts
    agreed: Agreed
    scores: bool = True
    vouching: Callable[[str], Vouching] | None = None
    replicas: dict[int, Replica] = field(default_factory=dict)

    def replica(self, rank: int) -> Replica:
        """The global parts that it holds at a rank."""
        return self.replicas.setdefault(rank, self.runtime.replica())

    def train(
        self, plan: Plan, kept: Kept, mask: Callable[[Update], Update] | None
    ) -> tuple[Update, Kept]:
        """The client's update in a round that it begins with `kept`, and what it then keeps.

        Args:
            plan: what it is told.
            kept: what it keeps.
            mask: what hides the update in a secure sum.

        Raises:
            Withheld: it cannot be one of a sum.
        """
        begin = time.perf_counter()
        data, replica = self.splits["train"], self.replica(plan.rank)
        job = self.runtime.begin(plan, replica, kept, data.shares[0], first_head(self.model))
        [trained] = self.runtime.train(self.model, data.examples, [job])
        give_back()
        seconds = time.perf_counter() - begin
        log.info("round %s: %s, %.1f s", plan.round, dict(trained.update.metrics), seconds)
        if mask is not None:
            trained = self.runtime.masked(job, trained, mask)
        update, kept = trained.update, self.runtime.kept_after(job, trained, kept)
        return replace(update, metrics={**update.metrics, "seconds": seconds}), kept

    def party(self, run: str, round_number: int, before: Opened) -> Party:
        """The client's half of a round's secure sum.

        Args:
            run: which run it is.
            round_number: of the round.
            before: the sum of it that it helped to open before.

        Raises:
            Refused: the run has none, or no such round.
        """
        from rolora.secure.party import Party

        config, examples = self.agreed.config, self.facts.examples["train"]
        if config.least_sum is None or not 1 <= round_number <= config.rounds:
            raise Refused(f"none is agreed on for round {round_number}")
        vouching = self.vouching and self.vouching(run)
        terms = config.sum_terms(round_number)
        return Party(self.agreed.client.id, examples, terms, before, vouching)

    def evaluate(self, plan: Plan, kept: Kept, split: str) -> list[Evaluation]:
        """The client's model on its held-out examples; none where it has or tells none."""
        held = self.splits[split]
        [rows] = held.shares
        if not (len(rows) and self.scores):
            return []
        own = with_own(plan.send, plan, kept, first_head(self.model))
        found = self.runtime.evaluate(plan, held, [(own, rows)], self._alone)
        give_back()
        return [replace(evaluation, client=plan.client) for evaluation in found]

    def _alone(
        self, function: Callable[[LoraModel, Batch], Piece], items: Iterable[Batch]
    ) -> Iterator[Piece]:
        return (function(self.model, item) for item in items)


class SiteHandler:
    """Answers the requests of a server, one at a time.

    Args:
        client: the site's id.
        load: loads model and data for a run's settings; raises BadInput where they do not fit, and
            Declined where the site does not allow them.
        directory: what the client keeps for itself goes under ``runs/``, and what a finished run
            leaves to ``adapter/``.
    """

    def __init__(self, client: int, load: Callable[[Config], SiteModel], directory: Path):
        self.client, self._load, self.directory = client, load, directory
        self._settings: Mapping[str, Any] | None = None
        self._site: SiteModel | None = None
        self._run = ""
        self._party: Party | None = None

    def __call__(self, frames: Frames) -> Frames:
        """Answer one request.

        Raises:
            Declined: it is none, or not one that this site allows.
            BadInput: what the run needs cannot be loaded.
        """
        if len(frames) == 1:
            return self.join(_hello(frames[0]))
        try:
            if len(frames) == 2:
                return self._step(unpack_step(frames))
            return self._plan(unpack_request(frames))
        except WireError as error:
            raise Declined("no_request", str(error)) from None
        except Refused as error:
            raise Declined("refused", f"secure sum: {error}") from None
        except Withheld as error:
            raise Declined(error.reason, str(error)) from None

    def _plan(self, request: Request) -> Frames:
        """The answer to a plan."""
        site = self._of_run(request.run)
        site.agreed.check(request)
        replica = site.replica(request.plan.rank)
        drop_unlike(replica, request)
        try:
            advance(replica, request)
            return (
                self._train(site, request)
                if request.do == "train"
                else self._evaluate(site, replica, request)
            )
        except MissingPart:
            drop_unlike(replica, request)  # what increments made of another part, too
            return pack_stale(replica.versions())
        except BadMessage as error:
            raise Declined("no_request", str(error)) from None

    def join(self, hello: Mapping[str, Any]) -> Frames:
        """Load what the run needs, unless it is loaded, and tell what data there are."""
        if hello.get("protocol") != PROTOCOL:
            raise Declined("protocol", f"the server speaks {hello.get('protocol')!r:.60}")
        settings = hello.get("config")
        if not isinstance(settings, dict):
            raise Declined("no_request", "a greeting without settings")
        if self._site is None or settings != self._settings:
            self._site, self._run = None, ""  # not two models at a time
            config = parse_config(settings, source="the settings of the run")
            if self.client >= config.federation.clients:
                raise Declined(
                    "unfit",
                    f"client = {self.client}: the run has {config.federation.clients} clients, "
                    f"numbered from 0",
                )
            self._site, self._settings = self._load(config), settings
            log.info("client %s joins with %s", self.client, dict(self._site.facts.examples))
        return pack_facts(self._site.facts)

    def _of_run(self, run: str) -> SiteModel:
        """The loaded model, with nothing left in it of another run."""
        if self._site is None or self._settings is None:
            raise Declined("not_joined", "asked for work before it joined")
        if run != self._run:
            self._kept, self._party = KeptStore(self.directory / "runs", run), None
            self._as_begun("data", self._site.facts.fingerprint, "other_data")
            self._as_begun("settings", settled_in(self._settings), "refused")
            self._site.replicas.clear()
            self._run = run
        return self._site

    def _as_begun(self, what: str, mark: str, reason: str) -> None:
        """Note with which data or settings a run began, and refuse to go on with others."""
        noted = self._kept.directory / what
        if not noted.exists():
            noted.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(noted, mark.encode())
        elif noted.read_text() != mark:
            raise Declined(reason, f"{what}: not those with which this site began the run")

    def _train(self, site: SiteModel, request: Request) -> Frames:
        plan, before = request.plan, self._kept.before(request.plan.round)
        if site.config.noised_by_clients:
            # Another start would have other noise, and each is counted once.
            start = site.replica(plan.rank).start(plan, site.runtime.rules)
            self._as_begun(f"round-{plan.round}", digest(start.parts), "refused")
        mask = None
        if site.agreed.config.least_sum is not None:
            mask = partial(self._party_of(plan.round).masked, request.dealt)
        update, kept = site.train(plan, before, mask)
        self._kept.save(plan.round, kept)
        self._kept.settle(request.settled)
        return pack_update(update)

    def _step(self, step: Step) -> Frames:
        """The answer to a step of a secure sum; which one is to be opened is noted before."""
        site = self._of_run(step.run)
        if step.step == STEPS[0]:
            self._party = site.party(step.run, step.round, self._kept.sum_of(step.round))
        party = self._party_of(step.round)
        answer = party.answer(step.step, step.text)
        if step.step == STEPS[-1]:
            self._kept.note_sum(step.round, party.sum_over(step.text))
        return pack_answer(answer)

    def _party_of(self, round_number: int) -> Party:
        """The client's half of the sum that goes on."""
        party = self._party
        if party is None or party.terms.round != round_number:
            raise Refused(f"none of round {round_number} has begun here")
        return party

    def _evaluate(self, site: SiteModel, replica: Replica, request: Request) -> Frames:
        plan = request.plan
        plan = replace(plan, send=replica.take(plan))
        kept = self._kept.before(plan.round)
        evaluations = site.evaluate(plan, kept, request.split)
        if request.split == "test":
            self._leave_adapter(site, plan.send.overwrite(kept.parts))
        return pack_evaluations(evaluations)

    def _leave_adapter(self, site: SiteModel, parts: Adapter) -> None:
        """The run is over: leave its adapter, with what is this client's own."""
        path = self.directory / "adapter"
        save_adapter(path, parts, site.model, site.pretrained, site.config)
        log.info("the run is over; its adapter is in %s", path)


def settled_in(settings: Mapping[str, Any]) -> str:
    """A digest of what of a run's settings stays the same from its first round to its last, and is
    not as it is unless set: a setting that a later version adds makes no other run of it.
    """
    unset = by_name(Config().model_dump(mode="json"))
    fixed = {
        name: value
        for name, value in by_name(settings).items()
        if value != unset.get(name) and not may_change(name, settings)
    }
    text = json.dumps(fixed, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hello(frame: bytes) -> Mapping[str, Any]:
    try:
        hello = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise Declined("no_request", str(error)) from None
    if not isinstance(hello, dict):
        raise Declined("no_request", "a greeting that is no mapping")
    return hello


def advance(replica: Replica, request: Request) -> None:
    """Take the increments of a request, where it has some.

    Raises:
        MissingPart: they do not lead to the parts that it counts on, as they add to others than
            are held here.
    """
    if request.plan.increments:
        replica.take(request.plan)
        if drop_unlike(replica, request):
            raise MissingPart("increments of other parts")


def drop_unlike(replica: Replica, request: Request) -> bool:
    """Drop parts that are held under the right version with another content, as after a server
    went on from a checkpoint and did some rounds differently; whether there were any.
    """
    dropped = False
    for part, wanted in request.digests.items():
        version = request.plan.versions[part]
        held = replica.held.get((part, version))
        if held is not None and digest(held) != wanted:
            replica.drop(part, version)
            dropped = True
    return dropped
