"""What a run writes down, as records: the run makes them, and everybody reads them.

Every file says of which schema it is; a line of ``metrics.jsonl`` is a record, too, and says it
for itself. Scores are held by name, as the task gives them; the task's record says how a reader
should take each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from rolora.records.base import FileRecord, Record, Score, Scores
from rolora.records.detail import DetailRecord, UpdateRecord


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Metric:
    """A score and how to read it.

    Args:
        name: the key under which records hold it, such as ``macro_f1``.
        title: its name in the middle of a sentence, such as ``macro F1``.
        higher_is_better: whether more is better.
        share: whether it lies in [0, 1] and is shown in per cent.
        proportion: whether it is the share of examples that are right, each right or wrong by
            itself, so that a binomial interval tells how far to trust it.
    """

    name: str
    title: str
    higher_is_better: bool = True
    share: bool = False
    proportion: bool = False

    def better(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`."""
        return value > other if self.higher_is_better else value < other


LOSS = Metric("loss", "loss", higher_is_better=False)


class TaskRecord(Record):
    """What is learned; the first of `metrics` is the one that chooses and compares."""

    name: str
    title: str
    metrics: tuple[Metric, ...] = Field(min_length=1)

    @property
    def first(self) -> Metric:
        """The metric that chooses and compares."""
        return self.metrics[0]

    def known(self, *scores: Collection[str]) -> list[Metric]:
        """The metrics that one of `scores` holds: the task's in their order, then others."""
        names = [metric.name for metric in self.metrics]
        names += [name for held in scores for name in held]
        held = set().union(*scores)
        return [self.metric(name) for name in dict.fromkeys(names) if name in held]

    def first_of(self, scores: Mapping[str, float | None] | None) -> float | None:
        """The score by the first metric; None where there is none."""
        return None if scores is None else scores.get(self.first.name)

    def metric(self, name: str) -> Metric:
        """The metric of that name; a plain one where the task does not describe it."""
        known = {LOSS.name: LOSS} | {metric.name: metric for metric in self.metrics}
        return known.get(name) or Metric(name, name.replace("_", " "))


CLASSIFICATION = TaskRecord(
    name="classification",
    title="classification",
    metrics=(Metric("accuracy", "accuracy", share=True, proportion=True),),
)
"""The task of every run before schema 2."""


class FailureRecord(Record):
    """A client that gave no usable update."""

    client: int
    reason: str
    detail: str = ""


class ClientRecord(Record):
    """One client's number of held-out examples and its scores on them."""

    client: int
    examples: int
    scores: Scores


class RoundRecord(FileRecord):
    """One line of ``metrics.jsonl``.

    Args:
        round: counted from 1.
        phase: the parts that trained: ``A``, ``B`` or ``AB``, with ``+head``.
        train_loss: mean over the clients' batches of the round.
        validation: scores over all clients' validation examples; None where nobody looked.
        prediction_shares: of each stratum among the validation predictions; empty where the task
            has none, or nobody looked.
        detail: the validation scores of every label; None where the task has none.
        collapsed: the label that alone is predicted; None where there is no such one.
        sites: each client's own validation scores, as it gave them; empty where nobody looked.
        updates: each contributing client's part, by id.
        clients: of the `cohort` that was asked, how many contributed.
        attempts: cohorts that were drawn until one reached the quorum.
        failures: clients that gave no usable update, in all attempts.
        eval_failures: clients that gave no usable evaluation.
        faults: what went wrong with no client in particular.
        bytes_up, bytes_down: summed over clients.
        seconds: by stage, and ``total``.
        epsilon: spent in this round and all before, by whoever spent most; None where nothing is
            counted, or nothing is hidden.
    """

    round: int
    phase: str
    train_loss: Score
    validation: Scores | None = None
    prediction_shares: tuple[Score, ...] = ()
    detail: DetailRecord | None = None
    collapsed: str | None = None
    sites: tuple[ClientRecord, ...] = ()
    updates: tuple[UpdateRecord, ...] = ()
    clients: int
    cohort: int
    attempts: int = 1
    failures: tuple[FailureRecord, ...] = ()
    eval_failures: tuple[FailureRecord, ...] = ()
    faults: tuple[str, ...] = ()
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float] = Field(default_factory=dict)
    epsilon: Score = None

    @property
    def total_seconds(self) -> float:
        """Seconds of the round."""
        return self.seconds.get("total", sum(self.seconds.values()))

    def changed(self, **changes: Any) -> RoundRecord:
        """The same record with other values in some fields, checked like the first."""
        return RoundRecord(**{**dict(self), **changes})


class MethodRecord(Record):
    """The method as ``rolora methods`` describes it.

    Args:
        name: in a config.
        title: as its authors write it.
        travels: what goes up and down.
        exactness: whether the aggregate is the mean of the clients' products, in words.
        personal: each client keeps a model of its own, so that its own scores are the result.
        citation: its source.
    """

    name: str
    title: str
    travels: str = ""
    exactness: str = ""
    personal: bool = False
    citation: str = ""


class ModelRecord(Record):
    """The base model and the numbers of parameters."""

    name: str
    type: str | None = None
    parameters: int | None = None
    adapter_parameters: int | None = None


class DataRecord(Record):
    """The data: numbers of examples a split, the labels' names, and a hash of the content; by split
    how many texts were cut, and how many examples dropped as nothing to learn was left of them.
    """

    name: str
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    test_from: str | None = None
    label_names: tuple[str, ...] = ()
    fingerprint: str | None = None
    cut: Mapping[str, int] = Field(default_factory=dict)
    dropped: Mapping[str, int] = Field(default_factory=dict)


class StrataRecord(Record):
    """Training examples by client and stratum (for classification, the label).

    Args:
        names: of the strata; empty where the task has none, or a site does not tell its own.
        table: per client, the number of its examples in each stratum; where there are no names,
            one number, of all its examples.
    """

    names: tuple[str, ...] = ()
    table: tuple[tuple[int, ...], ...] = ()

    @property
    def sizes(self) -> list[int]:
        """Per client, its number of training examples."""
        return [sum(row) for row in self.table]


class FinalRecord(Record):
    """The model after the last round."""

    round: int
    validation: Scores
    test: Scores


class BestRecord(Record):
    """The round with the best validation scores, by the task's first metric."""

    round: int
    validation: Scores


class PrivacyRecord(Record):
    """What a run has spent, and how it was counted.

    Args:
        unit: ``client`` or ``example``.
        epsilon: of whoever spent most; None: nothing is hidden.
        delta: at which it is told.
        noise_multiplier: in clips; of several clients the least.
        accountant: ``pld`` or ``rdp``.
        repeatable: the draws come from a seed of the config, so that nothing is hidden from whoever
            knows it.
        clients: each one's epsilon by its id, where they differ.
    """

    unit: str
    epsilon: Score
    delta: float
    noise_multiplier: float
    accountant: str
    repeatable: bool = False
    clients: Scores = Field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What was spent, in words."""
        spent = "no bound" if self.epsilon is None else f"{self.epsilon:.3g}"
        known = "; its draws repeat, and hide nothing from who knows the seed"
        return (
            f"epsilon {spent} a {self.unit} at delta {self.delta:g} ({self.accountant}, noise of "
            f"{self.noise_multiplier:g} clips)" + (known if self.repeatable else "")
        )


class Estimate(Record):
    """What was expected of a run before its first round.

    Args:
        seconds: of training a round, on the wall clock; evaluation and the server's work come on
            top.
        memory: bytes at the peak: on a CPU of the process, on a GPU what torch holds there; None
            on other devices.
    """

    seconds: float
    memory: int | None = None


class Start(FileRecord):
    """``start.json``: what is known of a run before its first round.

    Args:
        rolora_version, versions: of what the numbers depend on.
        task, method, model: what is learned, how, and with what.
        config_hash: of ``config.yaml``.
        device, dtype, threads: where it runs.
        command: as it was typed.
        started: in UTC, ISO 8601; of the first process where the run was resumed.
        expected: of its rounds and its memory; None where its clients are elsewhere.
    """

    rolora_version: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    task: TaskRecord
    method: MethodRecord
    model: ModelRecord
    config_hash: str | None = None
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    command: str | None = None
    started: str | None = None
    expected: Estimate | None = None


class Summary(Start):
    """``summary.json``: the same, and what came out.

    Args:
        data: what it learned from.
        strata: the training examples that each client holds.
        clients: the test scores by client, each on its own examples.
        final, best: the model after the last round, and the best round (None: nobody looked).
        test_examples: how many test examples the final scores are of; of a client that is cut to
            its share, so many as count.
        test_failures: clients whose examples the test scores lack.
        test_faults: what went wrong meanwhile with no client in particular.
        constant: scores of the best constant prediction on the test examples, by metric.
        prediction_shares: of each stratum among the test predictions; empty where the task has
            none.
        detail: the test scores of every label; None where the task has none.
        bytes_up, bytes_down, failures: over all rounds.
        seconds: by stage over all rounds, and ``total``.
        privacy: what was spent; None where nothing is counted.
        peak_memory_mb: resident memory of the process, in MiB.
        finished: in UTC, ISO 8601.
    """

    data: DataRecord
    strata: StrataRecord = StrataRecord()
    clients: tuple[ClientRecord, ...] = ()
    final: FinalRecord
    best: BestRecord | None = None
    test_examples: int | None = None
    test_failures: tuple[FailureRecord, ...] = ()
    test_faults: tuple[str, ...] = ()
    constant: Scores = Field(default_factory=dict)
    prediction_shares: tuple[float, ...] = ()
    detail: DetailRecord | None = None
    bytes_up: int
    bytes_down: int
    failures: int
    seconds: dict[str, float] = Field(default_factory=dict)
    privacy: PrivacyRecord | None = None
    peak_memory_mb: float | None = None
    finished: str | None = None

    @property
    def predicted_names(self) -> tuple[str, ...]:
        """What `prediction_shares` are of: the strata, or the labels where no strata are told."""
        labels = self.data.label_names
        same = len(labels) == len(self.prediction_shares)
        return self.strata.names or (labels if same else ())


class Measured(Record):
    """One number under every seed: its values by seed, mean and standard deviation."""

    values: dict[str, float]
    mean: float | None
    std: float | None
    n: int


UNMEASURED = Measured(values={}, mean=None, std=None, n=0)


class ComparedMethod(Record):
    """A method's runs.

    Args:
        title: of the method.
        seeds: of its runs.
        test, validation: the final model's scores by name.
        best: the best validation score by the task's first metric.
        bytes_up, bytes_down, seconds: of a run.
        over_bytes: the mean validation score over the bytes that all methods sent under a seed.
        bytes_to_target: bytes both ways until the validation score reached the comparison's target,
            of the runs that reached it.
        collapsed: by seed, why a run is no better than a constant guess.
        failures: by seed, clients that gave no usable update.
    """

    title: str
    seeds: tuple[int, ...]
    test: dict[str, Measured]
    validation: dict[str, Measured]
    best: Measured
    bytes_up: Measured
    bytes_down: Measured
    seconds: Measured
    over_bytes: Measured = UNMEASURED
    bytes_to_target: Measured = UNMEASURED
    collapsed: dict[str, str]
    failures: dict[str, int]


class DifferenceRecord(Record):
    """A method's score less the baseline's, seed by seed, with Student's paired t-test.

    Interval and p-value are None where the spread from seed to seed is not known; `p_holm` is
    corrected for all methods that are compared with the baseline by the same metric.
    """

    method: str
    baseline: str
    split: str
    metric: str
    by_seed: dict[str, float]
    mean: float | None = None
    std: float | None = None
    n: int = 0
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


class Comparison(FileRecord):
    """``comparison.json``: methods under the same seeds; `baseline` is what others are compared
    with, `constant` holds by seed the scores of the best constant prediction, `target` is the
    validation score for which the bytes are counted.
    """

    data: str
    model: str
    task: TaskRecord
    clients: int
    rounds: int
    baseline: str
    seeds: tuple[int, ...]
    constant: dict[str, Scores]
    target: Score = None
    methods: dict[str, ComparedMethod]
    differences: tuple[DifferenceRecord, ...]
