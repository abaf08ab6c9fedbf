"""For every task: columns to read, and what a known library says of predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import nn

from rolora.config import TaskConfig
from rolora.data import Column
from rolora.tasks import make_task


def column(values, classes=None):
    return Column("label", list(values), classes, "data.path = 'd.csv'")


@dataclass(frozen=True)
class Case:
    """A task's options, a column for a random generator and a number of rows, and its oracle: of
    outputs ``[n, names]`` and targets the scores, and how far off each may be. A task that reads
    no column has `draws` of targets and outputs.
    """

    values: Any
    oracle: Any
    options: dict = field(default_factory=dict)
    tolerance: dict = field(default_factory=dict)
    known: Any = None
    draws: Any = None


def classification_oracle(output, targets):
    loss = nn.functional.cross_entropy(output.double(), targets)
    accuracy = sk.accuracy_score(targets, output.argmax(1))
    macro = sk.f1_score(targets, output.argmax(1), average="macro", zero_division=0)
    return {"accuracy": accuracy, "macro_f1": macro, "loss": float(loss)}


def regression_oracle(output, targets):
    x, y = output[:, 0].double().numpy(), targets.double().numpy()
    mse = sk.mean_squared_error(y, x)
    return {
        "pearson": stats.pearsonr(x, y).statistic,
        "spearman": stats.spearmanr(x, y).statistic,
        "mse": mse,
        "loss": mse / 2.5**2,
    }


def multilabel_oracle(output, targets):
    found = output > 0
    loss = nn.functional.binary_cross_entropy_with_logits(output.double(), targets.double())
    return {
        "micro_f1": sk.f1_score(targets, found, average="micro", zero_division=0),
        "macro_f1": sk.f1_score(targets, found, average="macro", zero_division=0),
        "subset_accuracy": sk.accuracy_score(targets, found),
        "loss": float(loss),
    }


def causal_lm_draws(rng, n):
    """Numbers of learned tokens, and the losses of rows of so many, ``[n]``."""
    targets = torch.from_numpy(rng.integers(1, 40, n))
    return targets, (targets * torch.from_numpy(rng.gamma(2.0, 1.0, n))).float()


def causal_lm_oracle(output, targets):
    each = np.repeat((output / targets).double().numpy(), targets.numpy())  # a token, a row
    return {"loss": each.mean(), "perplexity": stats.gmean(np.exp(each))}


LABELS = ("a", "b", "c", "d")
CASES = {
    "classification": Case(
        lambda rng, n: rng.choice(LABELS, n, p=[0.5, 0.3, 0.15, 0.05]),
        classification_oracle,
        known=LABELS,
    ),
    "regression": Case(
        lambda rng, n: (rng.beta(2, 3, n) * 5).round(1),
        regression_oracle,
        {"range": [0, 5]},
        {"spearman": 0.05},
    ),
    "multilabel": Case(
        lambda rng, n: ["|".join(name for name in LABELS if rng.random() < 0.4) for _ in range(n)],
        multilabel_oracle,
        known=LABELS,
    ),
    "causal_lm": Case(
        None, causal_lm_oracle, tolerance={"perplexity": 1e-4}, draws=causal_lm_draws
    ),
}


def task(name):
    return make_task(TaskConfig(name=name, **CASES[name].options))


def drawn(name, n, seed=0):
    """The task, `n` targets, the names, and outputs that know a little of the targets."""
    rng, made = np.random.default_rng(seed), task(name)
    case = CASES[name]
    if case.draws is not None:
        targets, output = case.draws(rng, n)
        return made, targets, (), output
    targets, names = made.targets(column(case.values(rng, n)), case.known)
    targets = torch.from_numpy(targets)
    if targets.dim() == 1 and len(names) > 1:
        signal = nn.functional.one_hot(targets, len(names)).float()
    else:
        signal = targets.float().reshape(n, -1)
    noise = torch.from_numpy(rng.normal(size=(n, len(names)))).float()
    return made, targets, names, 1.5 * (signal - signal.mean(0)) + signal.mean(0) + noise


def sums_of(made, output, targets, names):
    return made.sums(made.outcome(output, targets), targets, names)
