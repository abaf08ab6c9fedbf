"""Run directories as `rolora run` leaves them, with made-up but plausible numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rolora.config import dump_config, parse_config
from rolora.records.detail import ClassRecord, DetailRecord, UpdateRecord, alone
from rolora.records.schema import (
    CLASSIFICATION,
    BestRecord,
    ClientRecord,
    DataRecord,
    FailureRecord,
    FinalRecord,
    MethodRecord,
    Metric,
    ModelRecord,
    RoundRecord,
    Start,
    StrataRecord,
    Summary,
    TaskRecord,
)

STAGES = ("plan", "train", "aggregate", "evaluate", "checkpoint")
TITLES = {"rolora": "RoLoRA", "fedit": "FedIT", "ffa_lora": "FFA-LoRA", "fedsa_lora": "FedSA-LoRA"}
REGRESSION = TaskRecord(
    name="regression",
    title="regression",
    metrics=(
        Metric(name="pearson", title="Pearson correlation"),
        Metric(name="spearman", title="Spearman correlation"),
        Metric(name="mse", title="mean squared error", higher_is_better=False),
    ),
)
MULTILABEL = TaskRecord(
    name="multilabel",
    title="multi-label classification",
    metrics=(
        Metric(name="macro_f1", title="macro F1", share=True),
        Metric(name="micro_f1", title="micro F1", share=True),
        Metric(name="exact_match", title="exact match", share=True, proportion=True),
    ),
)


@dataclass(frozen=True)
class Learned:
    """A task, its scores after a share of what can be learned, and what a constant gets."""

    task: TaskRecord
    scores: Callable[[float], dict[str, float]]
    constant: dict[str, float | None]
    strata: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    by_label: Callable[[float], DetailRecord] | None = None


def confused(labels, learned):
    """The scores of labels of 40 examples each, of which all are the last until they are told
    apart.
    """
    table = np.zeros((len(labels), len(labels)), int)
    table[:, -1] = 40
    right = round(30 * learned)
    for i in range(len(labels) - 1):
        table[i, -1] -= right
        table[i, i] += right
    classes = []
    for i, name in enumerate(labels):
        given, true, both = table[:, i].sum(), table[i].sum(), table[i, i]
        classes.append(
            ClassRecord(
                name=name,
                precision=float(both / given) if given else None,
                recall=float(both / true),
                f1=float(2 * both / (given + true)),
                support=int(true),
                predicted_share=float(given / table.sum()),
            )
        )
    return DetailRecord(classes=tuple(classes), confusion=tuple(map(tuple, table.tolist())))


def classification(labels=("negative", "positive"), reach=0.77, collapsed=False):
    """Accuracy from chance to `reach`; if `collapsed`, at chance with one label predicted."""
    chance, least = 1 / len(labels), 0.004
    one = (least,) * (len(labels) - 1) + (1 - least * (len(labels) - 1),)

    def scores(learned):
        up = 0.0 if collapsed else (reach - chance) * learned
        return {"accuracy": chance + up, "loss": np.log(len(labels)) * (1 - 0.35 * learned)}

    shares = one if collapsed else (chance,) * len(labels)

    def by_label(learned):
        return confused(labels, 0.0 if collapsed else learned)

    guess = {"accuracy": chance + 0.004}
    return Learned(CLASSIFICATION, scores, guess, labels, shares, by_label)


def regression(reach=0.87):
    """Correlations up to `reach`, of which a constant has none; squared errors down."""

    def scores(learned):
        error = 2.31 * (1 - 0.75 * learned)
        pearson = reach * learned
        return {"pearson": pearson, "spearman": 0.97 * pearson, "mse": error, "loss": error}

    return Learned(REGRESSION, scores, {"pearson": None, "mse": 2.31})


def multilabel():
    """Three labels, several at a time."""

    def scores(learned):
        f1 = 0.1 + 0.5 * learned
        found = {"macro_f1": f1, "micro_f1": f1 + 0.1, "exact_match": 0.5 * f1}
        return found | {"loss": 0.6 - 0.3 * learned}

    constant = {"macro_f1": 0.12, "micro_f1": 0.31, "exact_match": 0.04}
    return Learned(MULTILABEL, scores, constant, ("joy", "anger", "none of these"))


@dataclass(frozen=True)
class Setting:
    """What :func:`make_run` makes."""

    learned: Learned
    method: str = "rolora"
    seed: int = 0
    clients: int = 10
    per_round: int | None = None
    rounds: int = 20
    done: int | None = None
    failures: float = 0.0

    @property
    def cohort(self):
        return self.per_round or self.clients

    @property
    def config(self):
        federation = {"clients": self.clients, "clients_per_round": self.per_round}
        return parse_config(
            {
                "seed": self.seed,
                "rounds": self.rounds,
                "method": {"name": self.method},
                "federation": federation,
            }
        )


def make_run(directory: Path, learned: Learned | None = None, **changes) -> Path:
    """A run directory; unfinished where `done` rounds are named."""
    setting = replace(Setting(learned or classification()), **changes)
    rng = np.random.default_rng(setting.seed)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(dump_config(setting.config))
    number = setting.rounds if setting.done is None else setting.done
    rounds = [made_round(setting, n, rng) for n in range(1, number + 1)]
    write_rounds(directory, rounds)
    start = made_start(setting)
    (directory / "start.json").write_text(start.model_dump_json())
    if setting.done is None:
        summary = made_summary(setting, start, rounds, rng)
        (directory / "summary.json").write_text(summary.model_dump_json(indent=1))
    return directory


def made_round(setting, number, rng):
    """A round on the way up, evaluated when its number is even and after the last."""
    learned = 1 / (1 + np.exp(-(number - 0.4 * setting.rounds) / (0.12 * setting.rounds)))
    scores = setting.learned.scores(learned)
    failed = rng.choice(
        setting.clients, rng.binomial(setting.cohort, setting.failures), replace=False
    )
    phase = {"rolora": "B" if number % 2 else "A", "ffa_lora": "B"}.get(setting.method, "AB")
    both = 2 if phase == "AB" else 1
    due = number % 2 == 0 or number == setting.rounds
    stages = dict(zip(STAGES, [0.002, 5.1, 0.03, 1.9 * due, 0.05], strict=True))
    contributed = setting.cohort - len(failed)
    detail = setting.learned.by_label(learned) if due and setting.learned.by_label else None
    shares = [label.predicted_share for label in detail.classes] if detail else []
    return RoundRecord(
        prediction_shares=tuple(shares),
        detail=detail,
        collapsed=alone(shares, setting.learned.strata),
        updates=tuple(made_updates(setting, phase, failed.tolist(), scores["loss"], number)),
        round=number,
        phase=phase,
        train_loss=float(scores["loss"] * 0.98 + rng.normal(0, 0.01)),
        validation={n: float(s * (1 + rng.normal(0, 0.008))) for n, s in scores.items()}
        if due
        else None,
        clients=contributed,
        cohort=setting.cohort,
        failures=tuple(
            FailureRecord(
                client=int(client),
                reason=str(rng.choice(["nan", "lost", "missing part"])),
                detail="B of encoder.layer.3.attention.self.query is not finite",
            )
            for client in failed
        ),
        bytes_up=76_312 * both * contributed,
        bytes_down=76_312 * (both + (number == 1)) * setting.cohort,
        seconds={**stages, "total": sum(stages.values()) + 0.02},
    )


def made_updates(setting, phase, failed, loss, number):
    """What each client that did not fail sent; drawn apart from everything else."""
    rng = np.random.default_rng([setting.seed, number])
    for client in range(setting.cohort):
        if client not in failed:
            yield UpdateRecord(
                client=client,
                examples=10 + client,
                weight=10.0 + client,
                train_loss=float(loss * rng.uniform(0.8, 1.2)),
                norms={part: float(rng.uniform(0.5, 2) / number) for part in phase},
            )


def made_start(setting):
    """What is known before the first round."""
    return Start(
        rolora_version="0.1.0",
        versions={"python": "3.11.2", "torch": "2.13.0", "peft": "0.21.2", "numpy": "2.4.6"},
        task=setting.learned.task,
        method=MethodRecord(
            name=setting.method,
            title=TITLES.get(setting.method, setting.method),
            travels="B in odd rounds, A in even",
            exactness="yes",
            personal=setting.method == "fedsa_lora",
            citation="Chen et al., 2025, Algorithm 1, arXiv:2502.01755",
        ),
        model=ModelRecord(
            name="minilm", type="bert", parameters=22_713_986, adapter_parameters=36_864
        ),
        config_hash="9f2d1c0a7b",
        device="cpu",
        dtype="float32",
        threads=2,
        command="rolora run quickstart --out runs/quickstart",
        started="2026-11-22T15:00:01+00:00",
    )


def made_summary(setting, start, rounds, rng):
    """What came out."""
    learned, last = setting.learned, rounds[-1]
    sizes = rng.dirichlet(np.full(setting.clients, 2.0)) * 700 * setting.clients + 4
    strata = max(1, len(learned.strata))
    split = [rng.multinomial(int(n), rng.dirichlet(np.full(strata, 0.5))) for n in sizes]
    looked = [record for record in rounds if record.validation]
    best = max(looked, key=lambda record: learned.task.first_of(record.validation))
    return Summary(
        **dict(start),
        data=DataRecord(
            name="rotten_tomatoes",
            train=6910,
            validation=767,
            test=853,
            test_from="10% of train",
            label_names=learned.strata,
            fingerprint=f"c0ffee{setting.seed}",
        ),
        strata=StrataRecord(
            names=learned.strata, table=tuple(tuple(row.tolist()) for row in split)
        ),
        clients=tuple(made_clients(learned, last, np.maximum(1, sizes // 9).astype(int), rng)),
        final=FinalRecord(
            round=setting.rounds,
            validation=last.validation,
            test={name: score - 0.007 for name, score in last.validation.items()},
        ),
        best=BestRecord(round=best.round, validation=best.validation),
        test_examples=853,
        constant=learned.constant,
        detail=learned.by_label(1.0) if learned.by_label else None,
        prediction_shares=learned.shares,
        bytes_up=sum(r.bytes_up for r in rounds),
        bytes_down=sum(r.bytes_down for r in rounds),
        failures=sum(len(r.failures) for r in rounds),
        seconds={s: sum(r.seconds[s] for r in rounds) for s in (*STAGES, "total")},
        peak_memory_mb=812.4,
        finished="2026-11-22T15:02:24+00:00",
    )


def made_clients(learned, last, examples, rng):
    """Each client's scores, scattered about the last validation's by how few examples it has."""
    for client, n in enumerate(examples.tolist()):
        scores = {}
        for metric in learned.task.metrics:
            score = last.validation[metric.name]
            if metric.share:
                scores[metric.name] = float(rng.binomial(n, np.clip(score, 0, 1)) / n)
            else:
                scores[metric.name] = float(score * (1 + rng.normal(0, 0.5 / np.sqrt(n))))
        yield ClientRecord(client=client, examples=n, scores=scores)


def write_rounds(run, rounds):
    """``metrics.jsonl`` of these records."""
    (run / "metrics.jsonl").write_text("".join(r.model_dump_json() + "\n" for r in rounds))


def rounds_of(run):
    """``metrics.jsonl`` as plain JSON."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary_of(run):
    """``summary.json`` as plain JSON."""
    return json.loads((run / "summary.json").read_text())


def change_rounds(run, change):
    """Write ``metrics.jsonl`` again after `change` of its plain JSON objects."""
    records = rounds_of(run)
    change(records)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def change_summary(run, **changes):
    """Write ``summary.json`` again with other values."""
    (run / "summary.json").write_text(json.dumps(summary_of(run) | changes))
