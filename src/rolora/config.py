"""The configuration of a run: one YAML file, checked key by key, with overrides from the shell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    SerializeAsAny,
    model_validator,
)

from rolora.core.errors import nearest
from rolora.core.parsing import apply_override, chosen, parse_section, place_path, shown
from rolora.core.reading import ReadOptions
from rolora.core.section import NonNegative, Positive, Rate, Section, Seed
from rolora.core.shares import count_of
from rolora.core.types import ClientInfo, Part, scaling_of
from rolora.core.yaml_text import read_mapping
from rolora.methods import METHODS, Options
from rolora.methods.rolora import RoLoRAOptions
from rolora.presets import located
from rolora.reducers import REDUCERS, ReducerOptions
from rolora.secure.forms import Terms
from rolora.stages import STAGES, StageOptions

DEFAULT_DATA = "rotten_tomatoes"


class ModelConfig(Section):
    """The pretrained model: a known short name, a hub name, a directory or a GGUF file.

    `dtype` ``auto`` is float32 for a classifier; a language model keeps its checkpoint's precision
    (bfloat16 for either 16-bit kind; float32 on a CPU that is slow in bfloat16). `quantization`
    packs a language model's frozen weights on a GPU. With `gradient_checkpointing` each layer keeps
    its input alone and passes once more on the way back, for a third more work and the same bits;
    ``auto`` does so where what is kept would not fit the free memory.
    """

    name: str = "minilm"
    head: Literal["frozen", "train", "local"] = "frozen"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    quantization: Literal["8bit", "4bit"] | None = None
    gradient_checkpointing: Literal["auto"] | bool = "auto"


class LoraSettings(Section):
    """The adapter. `target_modules` are names of layers, ``all-linear`` for all but the head's, or
    a regular expression for their whole names, as in PEFT; null takes the architecture's default.
    `layers` is ``all``, ``12-23`` or ``0,3,5``; `client_ranks` repeats over clients for methods
    that take clients of different ranks.
    """

    r: Positive = 4
    lora_alpha: Rate = 16.0
    target_modules: tuple[str, ...] | str | None = None
    layers: str = Field(default="all", pattern=r"^(all|\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*)$")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    client_ranks: tuple[Positive, ...] | None = None

    @property
    def max_rank(self) -> int:
        """The largest rank of any client: that of the global adapter."""
        return max(self.client_ranks) if self.client_ranks else self.r

    @property
    def largest_scaling(self) -> float:
        """``lora_alpha / r`` of the client with the smallest rank."""
        return scaling_of(self.lora_alpha, min(self.client_ranks or (self.r,)))

    def rank_of(self, client: int) -> int:
        """The rank of one client."""
        return self.client_ranks[client % len(self.client_ranks)] if self.client_ranks else self.r


class DataConfig(Section):
    """The data: a known name, a hub name, or a file or ``datasets`` directory with its fields.

    A relative `path` in a config is taken from where the config lies; one that is typed in the
    shell, as ``data.path=notes.csv``, from the working directory. `options` say how a text file
    is read (:class:`ReadOptions`).

    `validation` is split off the training data; `test` is touched once, at the end: a fraction of
    the data where they bring no test split of their own. `limit` keeps that many training
    examples, drawn from the seed. `labels` are the names of the labels in order, where they are
    not to be found in the data: a site of a federation may not hold an example of each.
    """

    name: str | None = None
    path: Path | None = None
    options: ReadOptions = ReadOptions()
    subset: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    train_split: str = "train"
    test_split: str | None = None
    validation: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    test: Annotated[float, Field(gt=0.0, lt=0.9)] = 0.1
    max_length: Annotated[int, Field(ge=4)] = 128
    limit: Positive | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.name is not None and self.path is not None:
            raise ValueError("give name or path, not both")
        if self.path is None and self.options != ReadOptions():
            raise ValueError("options say how the file at path is read, and there is no path")
        return self


class TaskConfig(Section):
    """What is learned (:data:`rolora.tasks.TASKS`), and the options of that task beside its name,
    which the task checks.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    name: str = "classification"

    @property
    def options(self) -> dict[str, Any]:
        """The options as they were given."""
        return dict(self.model_extra or {})


class PartitionConfig(Section):
    """How the training examples are dealt out to clients.

    With ``field`` every value of a column is a client of its own, and `federation.clients` is
    their number; with `merge` several values may lie together with one client, dealt so that the
    clients' sizes balance. The file decides, the same for every seed: a row without a value is
    refused, a value in fewer than `min_examples` rows of the training split is refused, and of
    every other value at least so many rows are trained on, whatever is drawn for validation, test
    and `data.limit`.
    """

    name: Literal["iid", "dirichlet", "shards", "field"] = "dirichlet"
    dirichlet_alpha: Rate = 0.5
    shards_per_client: Positive = 2
    field: str | None = None
    merge: bool = False
    min_examples: Positive = 2

    @model_validator(mode="after")
    def _field_named(self) -> PartitionConfig:
        if self.name == "field" and self.field is None:
            raise ValueError("partition by field needs field: the column to split by")
        return self

    @property
    def by(self) -> str | None:
        """The column to split by, if that is what decides."""
        return self.field if self.name == "field" else None


class FederationConfig(Section):
    """Who takes part. `clients_per_round` defaults to all; `quorum` is the share of the cohort
    whose updates a round needs; a robust ``server.reducer`` may need more. Across machines, a
    client that has not answered `deadline` seconds after it was asked has failed in this round.

    And how far one is believed. No client has more than `max_share` of the weight of those who
    contributed to a round, or were evaluated; the heavier ones' weights are cut. 1 is off; null is
    a half across machines where at least three take part, so that no site outweighs all the others
    together, and off where all clients are this machine's own (:attr:`Config.largest_share`).
    `max_examples` is what a site may say it has in a split. A round whose aggregate is further from
    the last than `max_jump` times what its clients typically moved is done again without those who
    did it (:class:`rolora.server.judge.Judge`); null is off.
    """

    clients: Positive = 10
    clients_per_round: Positive | None = None
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    deadline: Rate | None = 3600.0
    max_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    max_examples: Positive = 10_000_000
    max_jump: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] | None = 10.0

    @model_validator(mode="after")
    def _share_fits(self) -> FederationConfig:
        if self.max_share is not None and self.max_share * self.cohort_size < 1.0:
            raise ValueError(
                f"max_share = {self.max_share:g} is less than an equal share of {self.cohort_size} "
                f"clients a round; at least {1 / self.cohort_size:.3g}"
            )
        return self

    @model_validator(mode="after")
    def _cohort_fits(self) -> FederationConfig:
        if self.clients_per_round is not None and self.clients_per_round > self.clients:
            raise ValueError(
                f"clients_per_round = {self.clients_per_round} is more than clients = "
                f"{self.clients}; at most all of them can take part"
            )
        return self

    @property
    def cohort_size(self) -> int:
        """Clients in a round."""
        return self.clients_per_round or self.clients


class OptimizerConfig(Section):
    """The clients' optimiser. `lr_b` is the learning rate of B where it differs from `lr`;
    `state` says what becomes of the optimiser's state between a client's rounds: it is forgotten,
    kept as it is, or kept and carried to the factor that is frozen now
    (:mod:`rolora.client.moments`).
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Rate = 2.0e-3
    lr_b: Rate | None = None
    lr_head: Rate | None = None
    state: Literal["reset", "persist", "transport"] = "reset"
    local_steps: Positive | None = 5
    local_epochs: Positive | None = None
    batch_size: Positive = 16
    weight_decay: NonNegative = 0.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    eps: Rate = 1e-8
    max_grad_norm: Rate | None = None

    @model_validator(mode="after")
    def _one_length(self) -> OptimizerConfig:
        if (self.local_steps is None) == (self.local_epochs is None):
            raise ValueError("give either local_steps or local_epochs, the other null")
        return self

    def steps(self, examples: int) -> int:
        """Of a client with so many examples in a round."""
        return self.local_steps or (self.local_epochs or 1) * -(-examples // self.batch_size)


class ObjectiveConfig(Section):
    """What clients train on. With `logit_adjustment` tau above 0 the log of a client's own label
    shares, times tau, is added to the model's outputs while it trains, so that it need not learn
    them (:mod:`rolora.client.objective`); for tasks of one label a row.
    """

    logit_adjustment: NonNegative = 0.0


def _named(raw: Any, table: Mapping[str, Any], what: str) -> Any:
    """The options of what `raw` names in `table`: a name, or a mapping with them."""
    given = dict(raw) if isinstance(raw, Mapping) else {"name": raw}
    name = given.get("name")
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"name = {shown(name)}: unknown {what}{nearest(str(name), table)}")
    return chosen(table[name].Options, given)


def _reducer(raw: Any) -> ReducerOptions:
    """``server.reducer``: a name, or a mapping with the reducer's options."""
    return raw if isinstance(raw, ReducerOptions) else _named(raw, REDUCERS, "reducer")


def _written(options: ReducerOptions) -> Any:
    """A reducer without options as its name alone."""
    return options.name if len(type(options).model_fields) == 1 else options.model_dump()


AnyReducer = Annotated[ReducerOptions, BeforeValidator(_reducer), PlainSerializer(_written)]


def _stage(raw: Any) -> StageOptions:
    """One of ``stages`` or ``server.stages``: a name, or a mapping with the stage's options."""
    return raw if isinstance(raw, StageOptions) else _named(raw, STAGES, "stage")


AnyStage = Annotated[SerializeAsAny[StageOptions], BeforeValidator(_stage)]


class ServerConfig(Section):
    """The server optimiser (Reddi et al., 2021), what the clients' updates are reduced by
    (:data:`rolora.reducers.REDUCERS`; a name, or a mapping with its options), and the weights of
    the mean: a client's number of examples, one for all, or what its label shares let it teach
    (:func:`rolora.client.objective.information`), which it says itself. `stages` are what the way
    up has, for the change that goes down to clients which hold what it adds to.

    A run ends before the round that would take it past `byte_budget` bytes, both ways together, as
    ``200GB`` or ``500MiB``; null sets no limit. A round's bytes are foretold for a first cohort
    that answers; evaluation across machines counts once it has been.
    """

    optimizer: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    lr: Rate = 1.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    tau: Rate = 1e-3
    weighting: Literal["examples", "uniform", "information"] = "examples"
    reducer: AnyReducer = ReducerOptions()
    stages: tuple[AnyStage, ...] = ()
    byte_budget: Annotated[ByteSize, Field(gt=0)] | None = None


class SecureSumConfig(Section):
    """Updates that are seen as their sum alone (:mod:`rolora.secure`; the extra
    ``rolora[secure-sum]``). A round is one only where at least `threshold` of the clients asked
    sent theirs, and so many are left to open the sum; the others may drop out at any step. null is
    off: the server sees each client's update. No number of a change may be beyond `reach`; a client
    that has one does not send it (``out_of_reach``). Changes are told in steps of `reach` / 2^31.

    The weights are told in clear. What looks at one update cannot be had: ``federation.max_jump``,
    lengths and losses by client, robust reducers.
    """

    threshold: Annotated[float, Field(gt=0.5, le=1.0)] | None = None
    reach: Annotated[float, Field(gt=0.0, le=1024.0)] = 4.0


Clip = Rate | dict[Part, Rate]


class PrivacyConfig(Section):
    """Differential privacy of each client or of each training example (`unit`), counted.

    A client's change of a round, or an example's gradient, is cut to the length `clip` over all
    parts that train; by part, as ``{A: 0.5, B: 0.1}``, each part is measured by its own. Noise of
    `noise_multiplier` clips is added to the sum: with ``unit: client`` by the server, or in shares
    by the clients (`noise`), with ``unit: example`` by the client. Without it the noise is solved,
    so that all rounds together spend `target_epsilon` at `delta`; with both, the run ends before
    the round that would spend more. `accountant` says how it is counted: ``pld`` is tighter,
    ``rdp`` quicker. `seed` makes the draws repeatable for a study, and worth nothing to anybody's
    privacy: null takes keys of the operating system's that stay with the run and at the sites.
    """

    unit: Literal["client", "example"] = "client"
    clip: Clip
    noise_multiplier: NonNegative | None = None
    target_epsilon: Rate | None = None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    noise: Literal["server", "clients"] | None = None
    accountant: Literal["pld", "rdp"] = "pld"
    seed: Seed | None = None

    @model_validator(mode="after")
    def _noise_known(self) -> PrivacyConfig:
        if self.noise_multiplier is None and self.target_epsilon is None:
            raise ValueError("give noise_multiplier, or target_epsilon, for which it is solved")
        if self.unit == "example" and self.noise == "server":
            raise ValueError(
                "noise = 'server': an example is hidden at its own client; leave noise out"
            )
        return self

    @property
    def noised_by(self) -> str:
        """``server`` or ``clients``."""
        return self.noise or ("server" if self.unit == "client" else "clients")


class EvaluationConfig(Section):
    """Validation every so many rounds, and always after the last. Of a language model, base and
    adapter answer the first `generations` held-out questions in the end (0: none).
    """

    every: Positive = 2
    batch_size: Positive = 64
    generations: Annotated[int, Field(ge=0, le=100)] = 3


class CheckpointConfig(Section):
    """A checkpoint every so many rounds; the last `keep` are kept."""

    every: Positive = 1
    keep: Annotated[int, Field(ge=2)] = 2


class EngineConfig(Section):
    """Where clients run. `stack` is the number of clients trained in one forward pass, chosen
    from the batch where null. `workers` train stacks at the same time on one thread each; null is
    one a core on a CPU, and one on a GPU. `cache_mb` bounds the cache of frozen activations (0: no
    cache). Across machines, `superlink` is the address of
    ``rolora server`` on this machine, `authority` the certificate of its authority, if it has one,
    and `patience` the seconds that a run waits for a server, or for a quorum of clients, that is
    gone. With Flower's own simulation (`runtime`) there are no sites: Ray spreads the clients over
    `workers` processes with a model each, on this machine's GPUs if it has some, and what clients
    keep for themselves lies in `state`.
    """

    name: Literal["in_process", "flower"] = "in_process"
    runtime: Literal["deployment", "simulation"] = "deployment"
    stack: Positive | None = None
    cache_mb: Annotated[int, Field(ge=0)] = 1024
    workers: Positive | None = None
    superlink: str = Field(default="127.0.0.1:9092", pattern=r"^[^\s/]+:\d+$")
    authority: Path | None = None
    patience: Rate = 300.0
    state: Path = Path("state")


def _method(raw: Any) -> Options:
    """The section ``method``, by the options of the method that it names."""
    if isinstance(raw, Options):
        return raw
    return _named({"name": "rolora", **raw} if isinstance(raw, Mapping) else raw, METHODS, "method")


def _data(raw: Any) -> Any:
    """The section ``data``; one that says nothing of where data are is about the default's."""
    elsewhere = {"name", "path", "subset", "text", "text_pair", "label", "labels", "options"}
    if isinstance(raw, Mapping) and not elsewhere & raw.keys():
        return {"name": DEFAULT_DATA, **raw}
    return raw


MethodOptions = Annotated[SerializeAsAny[Options], BeforeValidator(_method)]
TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]


class Config(Section):
    """A whole run. `method` and each of `stages` are a section of the method's or stage's own,
    chosen by its `name`; `tracking` names who is told of the run beside the terminal
    (:data:`rolora.callbacks.TRACKERS`).
    """

    seed: Seed = 0
    rounds: Positive = 20
    model: ModelConfig = ModelConfig()
    lora: LoraSettings = LoraSettings()
    data: Annotated[DataConfig, BeforeValidator(_data)] = DataConfig(name=DEFAULT_DATA)
    task: TaskConfig = TaskConfig()
    partition: PartitionConfig = PartitionConfig()
    federation: FederationConfig = FederationConfig()
    method: MethodOptions = RoLoRAOptions()
    stages: tuple[AnyStage, ...] = ()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    server: ServerConfig = ServerConfig()
    secure_sum: SecureSumConfig = SecureSumConfig()
    privacy: PrivacyConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    engine: EngineConfig = EngineConfig()
    tracking: tuple[TrackerName, ...] = ()

    @property
    def largest_share(self) -> float:
        """``federation.max_share``, or what stands for null: what sites say of themselves is to be
        doubted, what this machine deals out to its clients is not.
        """
        federation, engine = self.federation, self.engine
        if federation.max_share is not None:
            return federation.max_share
        own = engine.name == "in_process" or engine.runtime == "simulation"
        return 1.0 if own or federation.cohort_size < 3 else 0.5

    @property
    def least_sum(self) -> int | None:
        """The fewest clients whose sum is seen, above half of those asked; None: each one's own."""
        share, asked = self.secure_sum.threshold, self.federation.cohort_size
        return None if share is None else max(count_of(share, asked), asked // 2 + 1)

    def sum_terms(self, round_number: int) -> Terms:
        """What a round's secure sum is about."""
        return Terms(
            round=round_number,
            threshold=self.least_sum or 1,
            most=self.federation.cohort_size,
            reach=self.secure_sum.reach,
            by_examples=self.server.weighting == "examples",
        )

    @property
    def noised_by_clients(self) -> bool:
        """Whether each client hides what it sends by itself."""
        return self.privacy is not None and self.privacy.noised_by == "clients"

    @property
    def largest_jump(self) -> float | None:
        """``federation.max_jump``; None where the clip bounds each client, and the noise none, and
        where a secure sum hides how far each went.
        """
        private = self.privacy is not None and self.privacy.unit == "client"
        return None if private or self.least_sum is not None else self.federation.max_jump

    def client(self, number: int, num_examples: int) -> ClientInfo:
        """What a method may know of one client."""
        return ClientInfo(number, self.lora.rank_of(number), num_examples)


def load_config(config: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML config and apply ``key.path=value`` overrides.

    A relative ``data.path`` is taken from where the config lies, in an override from the working
    directory; the config has it in full, so that it is the same wherever it is written.

    Args:
        config: a file, or the name of a preset (:mod:`rolora.presets`).
        overrides: of its values.

    Raises:
        BadInput: the file cannot be read, is not a mapping, or holds a wrong key or value.
    """
    path = located(config)
    raw = read_mapping(path, f"config {config}")
    place_path(raw, "data.path", path.parent)
    for override in overrides:
        apply_override(raw, override)
    place_path(raw, "data.path", Path())
    return parse_config(raw, source=str(config))


def parse_config(raw: Mapping[Any, Any], source: str = "config") -> Config:
    """Validate a mapping as the config of a run; see :func:`parse_section`."""
    return parse_section(Config, raw, source)


def recorded_config(path: Path) -> Config:
    """The config of a run as it was written down. A method that is not installed here is held by
    its name and the options that all methods have.

    Raises:
        BadInput: the file cannot be read, or holds a wrong key or value.
    """
    raw = read_mapping(path, f"config {path}")
    given = raw.get("method")
    if isinstance(given, Mapping) and str(given.get("name")) not in METHODS:
        common = {key: given[key] for key in Options.model_fields if key in given}
        raw["method"] = parse_section(Options, common, f"{path}: method")
    return parse_config(raw, source=str(path))


def dump_config(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
