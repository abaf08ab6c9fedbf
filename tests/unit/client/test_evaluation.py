"""Sums by client, whoever holds what."""

import pytest
import torch

import small
from rolora.client.evaluation import Split, gathered, tally
from rolora.tasks import added


def test_outcomes_find_their_rows():
    pieces = [
        (torch.tensor([3, 0]), {"loss": torch.tensor([3.0, 0.5]), "on": torch.ones(2, 2).bool()}),
        (torch.tensor([1]), {"loss": torch.tensor([1.0]), "on": torch.zeros(1, 2).bool()}),
    ]
    found = gathered(pieces, 5)
    assert found["loss"].tolist() == [0.5, 1, 0, 3, 0]
    assert found["on"].dtype == torch.bool
    assert found["on"].sum(1).tolist() == [2, 0, 0, 2, 0]
    assert gathered([], 5) == {}


def test_examples_that_nobody_holds_are_not_counted():
    examples = small.pixel_examples(6)
    outcome = {"loss": torch.arange(6.0), "label": examples.targets}
    shares = [torch.tensor([4, 1]), torch.arange(0), torch.tensor([5])]
    results = tally(small.CLASSIFICATION, outcome, Split(examples, shares))
    assert [(result.client, result.num_examples) for result in results] == [(0, 2), (2, 1)]
    sums = added(result.sums for result in results)
    assert sums["loss"] == (10, 3)
    assert sum(sums["confusion"]) == 3
    assert small.CLASSIFICATION.scores(sums)["accuracy"] == 1


@pytest.mark.parametrize("local", [False, True])
def test_a_split_that_nobody_holds_has_no_scores(bert, local):
    """As when a partition by field tests on values that no client trains on."""
    head = "local" if local else "frozen"
    settings = small.config(rounds=1, model={"name": bert, "device": "cpu", "head": head})
    examples = small.text_examples(21)
    engine = small.engine(settings, small.text_model(bert, settings), examples=examples)
    nobody = Split(engine.splits["validation"].examples, [torch.arange(0)] * 3)
    engine.splits = {**engine.splits, "validation": nobody}
    _, record = small.run(settings, engine)
    assert record.metrics[0].validation == dict.fromkeys(("accuracy", "macro_f1", "loss"))
