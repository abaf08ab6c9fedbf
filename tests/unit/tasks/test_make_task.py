"""The section `task`: names and options."""

import pytest

from rolora.config import parse_config
from rolora.core.errors import BadInput
from rolora.tasks import make_task


def made(**section):
    return make_task(parse_config({"task": section}).task)


def test_classification_is_the_default():
    assert make_task(parse_config({}).task).name == "classification"


def test_options_belong_to_the_task():
    assert made(name="regression", range=[0, 5]).high == 5
    config = parse_config({"task": {"name": "regression", "range": [0, 5]}})
    again = parse_config(config.model_dump(mode="json"))
    assert again == config
    assert make_task(again.task).low == 0


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"name": "regresion"}, ["task.name = 'regresion'", "did you mean regression?"]),
        ({"name": "classification", "range": [0, 5]}, ["task: range: unknown key"]),
        (
            {"name": "regression", "rage": 1, "range": [0, 5]},
            ["task: rage: unknown key", "did you mean range?"],
        ),
        ({"name": "regression"}, ["task: range", "as in [0, 5] for STS-B"]),
        ({"name": "regression", "range": [5, 0]}, ["task: range", "lowest and the highest"]),
        ({"name": "regression", "range": [0, 1, 2]}, ["task", "range"]),
        ({"name": "regression", "range": [0, float("inf")]}, ["task: range", "lowest"]),
        ({"name": "multilabel", "separator": ","}, ["task: separator: unknown key"]),
    ],
)
def test_what_does_not_fit_is_named(section, parts):
    with pytest.raises(BadInput) as error:
        made(**section)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
