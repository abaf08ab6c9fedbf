"""A run with some of its clients hostile, and the same without, in the simulator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from rolora.attacks import Attack
from rolora.attacks.changes import Lie, Seen
from rolora.attacks.examples import TARGET, Trigger
from rolora.client.evaluation import Split
from rolora.config import Config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Failure, Plan, ServerState, Update
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import Prepared, build_engine, load, prepare
from rolora.records.schema import RoundRecord
from rolora.server.engine import PLAIN, Engine
from rolora.server.ledger import Ledger
from rolora.server.pooling import scored
from rolora.server.round import finished, rounds
from rolora.stages import change, changed


@dataclass(frozen=True)
class Outcome:
    """How a run came out.

    Args:
        score: the task's first metric on the test examples; None: the run failed.
        backdoor: share of the texts of other labels that the phrase gives its label; None: there
            is no phrase.
        named: in how many rounds the server refused a client's update.
        failed: why the run ended early.
    """

    score: float | None
    backdoor: float | None = None
    named: Mapping[int, int] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True)
class Trial:
    """The same run with hostile clients and without.

    Args:
        seed: of both.
        metric: the name of the score.
        hostile: the clients that are.
        honest: how it came out without.
        attacked: with.
    """

    seed: int
    metric: str
    hostile: tuple[int, ...]
    honest: Outcome
    attacked: Outcome


class Hostile(InProcess):
    """The simulator, in which some clients lie about what they trained.

    Args:
        prepared: the run.
        splits: as its clients have them.
        hostile: which clients lie.
        lie: what they send.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: Mapping[str, Split],
        hostile: Collection[int],
        lie: Lie | None,
    ):
        super().__init__(prepared.config, prepared.method, prepared.task, prepared.model, splits)
        self.hostile, self.lie = frozenset(hostile), lie

    def train(
        self, plans: Sequence[Plan], dealt: Mapping[int, bytes] = PLAIN
    ) -> Iterator[Update | Failure]:
        """Train the planned clients; hostile ones answer last, once they know all others."""
        answers = super().train(plans, dealt)
        if self.lie is None:
            yield from answers
            return
        own, honest = list[Update](), list[Update]()
        for answer in answers:
            assert isinstance(answer, Update)
            (own if answer.client in self.hostile else honest).append(answer)
        yield from honest
        if honest:
            own = [self._lied(plans, update, honest, len(own)) for update in own]
        yield from own

    def _lied(
        self, plans: Sequence[Plan], update: Update, honest: Sequence[Update], liars: int
    ) -> Update:
        """What one of `liars` hostile clients sends in place of `update`."""
        plan = next(plan for plan in plans if plan.client == update.client)
        start = self.replicas[plan.rank].start(plan, self.runtime.rules).parts
        generator = torch_generator(self.config.seed, "attack", plan.round, plan.client)
        rows = torch.stack([change(each.parts, start).flat for each in honest])
        own = change(update.parts, start)
        assert self.lie is not None
        lie = self.lie(Seen(own.flat, rows, liars, generator))
        return replace(update, parts=changed(start, Adapter(own.layout, lie)))


class Unwritten:
    """A run that leaves nothing behind.

    Attributes:
        named: rounds in which each client was refused.
        state: after the last round.
    """

    def __init__(self) -> None:
        self.named: dict[int, int] = {}
        self.state: ServerState | None = None

    def round_finished(self, metrics: RoundRecord) -> None:
        """Note who was refused."""
        for failure in metrics.failures:
            self.named[failure.client] = self.named.get(failure.client, 0) + 1

    def checkpoint(
        self,
        state: ServerState,
        ledger: Ledger,
        engine: Engine,
        unseen: RoundRecord | None = None,
    ) -> None:
        """Keep the state."""
        self.state = state


def state_after(prepared: Prepared, number: int) -> ServerState:
    """What a run has come to after so many rounds, none of which is evaluated."""
    whole, record = prepared.config, Unwritten()
    evaluation = whole.evaluation.model_copy(update={"every": number + 1})
    config = whole.model_copy(update={"rounds": number + 1, "evaluation": evaluation})
    given = (config, prepared.method, prepared.task, build_engine(prepared), prepared.initial())
    steps = rounds(*given, Ledger(), record)
    for _ in range(number):
        next(steps)
    steps.close()
    assert record.state is not None
    return record.state


def tried(
    config: Config,
    attack: Attack,
    fraction: float,
    seeds: Sequence[int],
    notice: Callable[[str], None] = warnings.warn,
) -> Iterator[Trial]:
    """The run of `config`, under each seed, without the attack and with it.

    Args:
        config: of the run.
        attack: what hostile clients do.
        fraction: of the clients that are hostile, at least one of them; which is drawn of the seed.
        seeds: of the runs.
        notice: told what is doubtful in the data.

    Raises:
        BadInput: the config does not fit, or the attack does not fit it.
    """
    check(config, attack, fraction)
    for seed in seeds:
        settings = config.model_copy(update={"seed": seed})
        prepared = prepare(settings, load(settings, notice), notice)
        hostile = drawn(settings, fraction)
        honest, attacked = (outcome(prepared, attack, who) for who in ((), hostile))
        yield Trial(seed, prepared.task.metrics[0].name, hostile, honest, attacked)


def check(config: Config, attack: Attack, fraction: float) -> None:
    """Refuse what cannot be tried.

    Raises:
        BadInput: with the field, its value, and what would be right.
    """
    if not 0.0 < fraction < 1.0:
        raise BadInput(f"--fraction {fraction:g}: must be above 0 and below 1")
    if config.engine.name != "in_process":
        raise BadInput(
            f"engine.name = {config.engine.name!r}: attacks are tried in the simulator; set "
            "in_process"
        )
    if config.privacy is not None:
        raise BadInput("privacy: attacks are tried on what clients send; leave privacy out")
    if attack.poison is not None and config.task.name != "classification":
        raise BadInput(
            f"task.name = {config.task.name!r}: this attack changes labels; it needs classification"
        )
    if attack.lie is None:
        return
    if config.stages:
        names = [stage.name for stage in config.stages]
        raise BadInput(f"stages = {names}: this attack is on plain updates; set none")
    if config.least_sum is not None:
        raise BadInput(
            f"secure_sum.threshold = {config.secure_sum.threshold:g}: this attack is on updates "
            "that can be seen; set null"
        )
    if len(set(config.lora.client_ranks or (1,))) > 1:
        raise BadInput("lora.client_ranks: this attack needs one rank for all clients")


def drawn(config: Config, fraction: float) -> tuple[int, ...]:
    """The hostile clients, by number."""
    clients = config.federation.clients
    count = max(1, round(fraction * clients))
    generator = torch_generator(config.seed, "attack", "hostile")
    return tuple(sorted(torch.randperm(clients, generator=generator)[:count].tolist()))


def outcome(prepared: Prepared, attack: Attack, hostile: Sequence[int]) -> Outcome:
    """Run to the end, and test."""
    engine = Hostile(prepared, _splits(prepared, attack, hostile), hostile, attack.lie)
    config, method, task = prepared.config, prepared.method, prepared.task
    record = Unwritten()
    try:
        run = rounds(config, method, task, engine, prepared.initial(), Ledger(), record)
        state = finished(run)
    except RunFailed as error:
        return Outcome(None, named=record.named, failed=str(error))
    plan, metric = method.evaluation_plan(state), task.metrics[0].name
    score = scored(task, engine.evaluate(plan, "test"))[metric]
    success = None
    if "backdoor" in engine.splits:
        success = scored(task, engine.evaluate(plan, "backdoor"))["accuracy"]
    return Outcome(score, success, record.named)


def _splits(prepared: Prepared, attack: Attack, hostile: Sequence[int]) -> dict[str, Split]:
    """The clients' examples, those of hostile ones poisoned; and for an attack by a phrase the test
    texts of other labels than its own, with it.
    """
    splits = {
        name: Split(examples, prepared.shares[name]) for name, examples in prepared.examples.items()
    }
    if attack.poison is None:
        return splits
    train, test = splits["train"], splits["test"]
    trigger = Trigger.of(prepared.pretrained.tokenizer, prepared.config.data.max_length)
    if hostile:
        rows = torch.cat([train.shares[client] for client in hostile])
        splits["train"] = Split(attack.poison(train.examples, rows, trigger), train.shares)
    if attack.triggered:
        everywhere = trigger.put_into(test.examples, torch.arange(len(test.examples)))
        targets = torch.full_like(test.examples.targets, TARGET)
        others = [rows[test.examples.targets[rows] != TARGET] for rows in test.shares]
        splits["backdoor"] = Split(replace(everywhere, targets=targets), others)
    return splits
