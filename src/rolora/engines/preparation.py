"""Everything that a run needs, loaded: data, model, method; and a run that can begin."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from rolora.client.evaluation import Split
from rolora.client.objective import check_shares
from rolora.config import Config
from rolora.core.errors import BadInput
from rolora.core.types import Adapter, ClientInfo, ServerState
from rolora.data import Examples, strata_table, tell_shares
from rolora.data.deal import deal
from rolora.engines.given import NOTHING, Given
from rolora.engines.in_process import InProcess
from rolora.methods import METHODS, Method, Setting
from rolora.methods.base import WHY
from rolora.model.adopted import adopt_pretrained
from rolora.model.loading import Pretrained, resolve_device
from rolora.model.lora import LoraModel, check_ranks
from rolora.privacy.checks import check_privacy
from rolora.reducers import make_reducer
from rolora.server.engine import Engine
from rolora.server.ledger import Ledger
from rolora.stages import make_chain, stage_named
from rolora.tasks import Task


@dataclass(frozen=True)
class DataFacts:
    """What a run's summary says of the data.

    Args:
        names: what the model's outputs stand for, in order.
        examples: number of examples by split.
        strata: the name of each stratum.
        strata_table: per client, its number of training examples of each stratum.
        test_from: where the test examples come from.
        fingerprint: a digest of all examples.
        cut: how many texts were cut, by split, where any were and it is known.
        dropped: how many examples were dropped, as nothing to learn was left; likewise.
    """

    names: Sequence[str]
    examples: Mapping[str, int]
    strata: Sequence[str]
    strata_table: Sequence[Sequence[int]]
    test_from: str
    fingerprint: str
    cut: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


class TrainingEngine(Engine, Protocol):
    """An engine whose clients may keep parts of their own."""

    @property
    def kept(self) -> Mapping[int, Adapter]:
        """What is known here of the parts that clients keep for themselves."""


@dataclass(frozen=True)
class Ready:
    """A run that can begin, here or across machines.

    Args:
        config: of the run.
        method: plans and aggregates.
        task: what is learned, and how it is scored.
        pretrained: the model as loaded.
        model: the same with LoRA layers.
        data: what must be the same for the run to go on.
        facts: what is known of the data by now.
        engine: makes the engine, for a run of this name and a ledger.
    """

    config: Config
    method: Method
    task: Task
    pretrained: Pretrained
    model: LoraModel
    data: str
    facts: Callable[[], DataFacts]
    engine: Callable[[str, Ledger], TrainingEngine]

    def initial(self) -> ServerState:
        """The state before round 1."""
        adapter = self.model.initial_adapter(self.config.lora.max_rank, self.config.seed)
        return self.method.init(adapter)


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs, loaded.

    Args:
        config: of the run.
        pretrained: the model as loaded; its layers have been replaced.
        model: the same with LoRA layers.
        examples: the tokenised splits by name.
        shares: per split, each client's example numbers.
        test_from: where the test examples come from.
        method: plans and aggregates.
        task: what is learned, and how it is scored.
    """

    config: Config
    pretrained: Pretrained
    model: LoraModel
    examples: Mapping[str, Examples]
    shares: Mapping[str, Sequence[torch.Tensor]]
    test_from: str
    method: Method
    task: Task

    def ready(self) -> Ready:
        """The run on the simulator."""
        return Ready(
            config=self.config,
            method=self.method,
            task=self.task,
            pretrained=self.pretrained,
            model=self.model,
            data=self.fingerprint(),
            facts=self.facts,
            engine=lambda run, ledger: build_engine(self),
        )

    def initial(self) -> ServerState:
        """The state before round 1."""
        return self.ready().initial()

    def facts(self) -> DataFacts:
        """What the summary says of the data."""
        train = self.examples["train"]
        strata = self.task.strata_names(train.names)
        table = strata_table(self.shares["train"], train.strata, len(strata))
        return DataFacts(
            names=train.names,
            examples={name: len(examples) for name, examples in self.examples.items()},
            strata=strata,
            strata_table=table.tolist(),
            test_from=self.test_from,
            fingerprint=self.fingerprint(),
            cut={name: e.cut for name, e in self.examples.items() if e.cut},
            dropped={name: e.dropped for name, e in self.examples.items() if e.dropped},
        )

    def client(self, number: int) -> ClientInfo:
        """What the method may know of one client."""
        return self.config.client(number, len(self.shares["train"][number]))

    def fingerprint(self) -> str:
        """A digest of all examples and who holds them."""
        digest = hashlib.sha256()
        for name, examples in self.examples.items():
            digest.update(examples.fingerprint.encode())
            for rows in self.shares[name]:
                digest.update(rows.numpy().tobytes() + b";")
        return digest.hexdigest()


def setting_of(config: Config) -> Setting:
    """What the method is told of the run."""
    ranks = set(config.lora.client_ranks or (config.lora.r,))
    return Setting(
        lora_alpha=config.lora.lora_alpha,
        max_rank=config.lora.max_rank,
        rounds=config.rounds,
        clients=config.federation.clients,
        head=config.model.head,
        mixed_ranks=len(ranks) > 1,
        optimizer_state=config.optimizer.state,
        server_optimizer=config.server.optimizer,
        reducer=config.server.reducer.name,
        stages=tuple(stage.name for stage in (*config.stages, *config.server.stages)),
        quantization=config.model.quantization,
        server_lr=config.server.lr,
    )


@dataclass(frozen=True)
class Loaded:
    """What takes long to load, for one run or for several that agree in :func:`loaded_from`.

    Args:
        task: what is learned, and how it is scored.
        pretrained: the model as loaded; its layers have been replaced.
        model: the same with LoRA layers, and the activations that its frozen layers gave.
        examples: the tokenised splits by name.
        test_from: where the test examples come from.
        held_out: whether that is the training data.
    """

    task: Task
    pretrained: Pretrained
    model: LoraModel
    examples: Mapping[str, Examples]
    test_from: str
    held_out: bool


def loaded_from(config: Config) -> dict[str, Any]:
    """The settings on which :func:`load` depends, JSON-able."""
    return {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json"),
        "kept": [config.partition.by, config.partition.by and config.partition.min_examples],
        "lora": config.lora.model_dump(include={"target_modules", "layers", "dropout"}),
        "cache_mb": config.engine.cache_mb,
    }


def load(
    config: Config, notice: Callable[[str], None] = warnings.warn, given: Given = NOTHING
) -> Loaded:
    """Load data and model; give notice of what is doubtful in them.

    Args:
        config: of the run.
        notice: told what is doubtful in the data.
        given: objects in place of what the config names.

    Raises:
        BadInput: they cannot be had or do not fit.
    """
    resolve_device(config.model.device)
    task = given.make_task(config)
    raw = task.load(config.data, config.seed, given.splits, config.partition)
    if given.model is None:
        pretrained = task.backbone(config.model, raw.train.names, config.seed)
    else:
        mine = (given.model, given.tokenizer)
        pretrained = adopt_pretrained(*mine, config.model, raw.train.names, task.kind)
    examples = task.encode(raw, pretrained, config.data, notice)
    model = task.adapted(pretrained, config)
    return Loaded(task, pretrained, model, examples, raw.test_from, raw.held_out)


def prepare(
    config: Config,
    loaded: Loaded | None = None,
    notice: Callable[[str], None] = warnings.warn,
    given: Given = NOTHING,
) -> Prepared:
    """Load data and model, deal the examples out, make the method.

    Args:
        config: of the run.
        loaded: what was loaded for a config with the same :func:`loaded_from`; its task is the
            run's.
        notice: told what is doubtful in the data.
        given: objects in place of what the config names.

    Raises:
        BadInput: something in the config cannot be had or does not fit.
    """
    method = checked_method(config, given)
    loaded = loaded or load(config, notice, given)
    check_shares(config, loaded.task)
    check_ranks(loaded.model, config.lora)
    shares = deal(config, loaded.examples)
    tell_shares(config, loaded.examples, shares, notice)
    return Prepared(
        config=config,
        pretrained=loaded.pretrained,
        model=loaded.model,
        examples=loaded.examples,
        shares=shares,
        test_from=loaded.test_from,
        method=method,
        task=loaded.task,
    )


def checked_method(config: Config, given: Given = NOTHING) -> Method:
    """The run's method.

    Raises:
        BadInput: it, the reducer or a stage does not go with another setting.
    """
    method = given.make_method(config, setting_of(config))
    make_reducer(config.server.reducer, config.federation.cohort_size)
    make_chain(config.stages).check(method.turns())
    check_down(config, method)
    check_privacy(config, method)
    if config.least_sum is not None:
        check_sum(config, method)
    return method


def check_down(config: Config, method: Method) -> None:
    """See that what the server sends can be coded.

    Raises:
        BadInput: the factors that clients hold do not change by what comes back alone.
    """
    names = [stage.name for stage in config.server.stages]
    make_chain(config.server.stages).check(turns=False)
    if names and method.turns():
        raise BadInput(
            f"server.stages = {names}: between rounds the method changes the basis of a factor "
            "(method.gauge, or FedSVD's SVD), so that its change is no small one; use none"
        )
    if names and method.setting.mixed_ranks:
        raise BadInput(
            f"server.stages = {names}: clients of other ranks (lora.client_ranks) hold other "
            "factors than the change is of; use none, or one rank"
        )


def check_sum(config: Config, method: Method) -> None:
    """Refuse what cannot be had of updates that are seen as their sum alone.

    Raises:
        BadInput: with the field, its value, and what would be right.
    """
    asked, server, sealed = config.federation.cohort_size, config.server, "which a secure sum hides"
    enough = [name for name, one in METHODS.own.items() if one.reduction != "each"]
    coded = [options.name for options in config.stages if not stage_named(options.name).adds]
    if method.reduction == "each":
        raise BadInput(
            f"method.name = {config.method.name!r}: {method.title} {WHY['each']}, {sealed}; take a "
            f"method of which the sum is enough ({', '.join(enough)})"
        )
    if server.reducer.name != "mean":
        raise BadInput(
            f"server.reducer = {server.reducer.name!r}: compares the clients' updates, {sealed}; "
            "use mean, or set secure_sum.threshold to null"
        )
    if server.weighting == "information":
        raise BadInput(
            "server.weighting = 'information': each client says its own weight, and those of a "
            "secure sum must be known before; use examples or uniform"
        )
    if config.privacy is not None and config.privacy.noised_by == "server":
        raise BadInput(
            f"privacy.noise = 'server': the server clips each update, {sealed}; have the clients "
            "do it (noise: clients), or take unit: example"
        )
    if coded:
        raise BadInput(f"stages = {coded}: codes of several clients cannot be added up; use none")
    if asked < 2:
        raise BadInput(f"federation: {asked} client is asked in a round; a sum needs 2 at least")
    if config.engine.runtime == "simulation":
        raise BadInput(
            "engine.runtime = 'simulation': its processes share the clients between them, and a "
            "secure sum needs one place a client; take deployment, or engine.name: in_process"
        )
    if find_spec("cryptography") is None:
        raise BadInput(
            "secure_sum: cryptography is not installed; pip install 'rolora[secure-sum]'"
        )


def build_engine(prepared: Prepared) -> InProcess:
    """The simulator over the prepared data and model."""
    splits = {
        name: Split(examples, prepared.shares[name]) for name, examples in prepared.examples.items()
    }
    return InProcess(prepared.config, prepared.method, prepared.task, prepared.model, splits)


@contextmanager
def in_process(
    config: Config, notice: Callable[[str], None], given: Given = NOTHING
) -> Iterator[Ready]:
    """A run on the simulator.

    Raises:
        BadInput: the config does not fit.
    """
    yield prepare(config, notice=notice, given=given).ready()
