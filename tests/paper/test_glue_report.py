"""What the GLUE experiment decides from its runs, and says."""

import pytest
from invented import SPREAD

from experiments.glue.config import GlueConfig
from experiments.glue.presets import lines_of, settings_of
from experiments.glue.report import Outcome, claims, tables
from experiments.glue.runs import Case, Runs
from experiments.glue.tasks import tasks_of
from experiments.short_runs import TrialResult


def glue(**settings):
    return GlueConfig.model_validate(settings)


def result(accuracy, **changes):
    made = TrialResult(
        rounds=[1, 2],
        accuracy=[accuracy / 2, accuracy],
        bytes_up_by_round=[10, 20],
        test_accuracy=accuracy,
        client_accuracy={"0": accuracy},
        diverged=False,
        bytes_up=20,
        bytes_down=20,
        seconds=60.0,
    )
    return {**made, **changes}


def outcome(preset, level, **settings):
    """Five seeds of every line around ``level(setting's number, line's key)``."""
    config = glue(preset=preset, tasks=("mnli",), **settings)
    (task,) = tasks_of(config, None, lambda _: None)
    final, grid, chosen = {}, {}, {}
    for column, setting in enumerate(settings_of(config)):
        for row, line in enumerate(lines_of(config)):
            place = Case(task, setting, line).key
            jitter = [SPREAD[(i + row + column) % 5] / 20 for i in range(5)]
            end = level(column, line.key)
            final[place] = [result(end + SPREAD[i] + jitter[i]) for i in range(5)]
            chosen[place] = 1e-3
            grid.update({(place, rate, 100): result(end) for rate in config.rates})
    return Outcome(config, (task,), Runs(grid, chosen, final), {"mnli": 0.35})


def standings(found, start):
    """Of the claims whose text, after the task, begins so."""
    texts = {claim.text.removeprefix("MNLI: "): claim.standing for claim in claims(found)}
    return [standing for text, standing in texts.items() if text.startswith(start)]


AT_50 = {"fedit": 0.5, "ffa_lora": 0.6, "flexlora": 0.4, "rolora": 0.8}


def table1(**at_50):
    return outcome("table1", lambda column, line: {**AT_50, **at_50}[line] if column == 2 else 0.8)


@pytest.mark.parametrize(
    ("start", "reversed_by"),
    [
        ("RoLoRA above LoRA (FedAvg) (50", {"fedit": 0.9}),
        ("FFA-LoRA between", {"ffa_lora": 0.9}),
        ("FFA-LoRA between", {"ffa_lora": 0.3}),
        ("LoRA (FedAvg) above FlexLoRA", {"flexlora": 0.7}),
        ("RoLoRA above FlexLoRA", {"flexlora": 0.9}),
        ("RoLoRA's lead over LoRA is greater at 50 clients than at 3", {"fedit": 0.9}),
    ],
)
def test_table_1_follows_the_numbers(start, reversed_by):
    assert standings(table1(), start) == ["holds"]
    assert standings(table1(**reversed_by), start) == ["does not hold"]


def test_a_tie_is_not_decided():
    tie = outcome("table1", lambda column, line: 0.5)
    assert standings(tie, "RoLoRA above LoRA") == ["not decided at this size"]


@pytest.mark.parametrize("preset", ["rank2", "dirichlet", "equal_bytes"])
def test_rolora_above_the_others_follows_the_numbers(preset):
    found = outcome(preset, lambda column, line: AT_50[line])
    above = standings(found, "RoLoRA above")
    assert len(above) in (2, 4)
    assert set(above) == {"holds"}
    worse = outcome(preset, lambda column, line: 1 - AT_50[line])
    assert set(standings(worse, "RoLoRA above")) == {"does not hold"}


def test_local_steps_follow_the_numbers():
    def drops(rolora, ffa):
        levels = {"rolora": (0.8, 0.8 - rolora), "ffa_lora": (0.7, 0.7 - ffa)}
        return outcome("local_steps", lambda column, line: levels[line][column])

    less = "RoLoRA loses less than FFA-LoRA from"
    assert standings(drops(0.05, 0.2), less) == ["holds"]
    assert standings(drops(0.2, 0.05), less) == ["does not hold"]
    assert standings(drops(0.2, 0.05), "FFA-LoRA loses from") == ["holds"]
    assert standings(drops(-0.2, 0.05), "RoLoRA loses from") == ["does not hold"]


def test_budget_follows_the_numbers():
    def fall(rolora, ffa):
        each = {"rolora": rolora, "ffa_lora": ffa}
        return outcome("budget", lambda column, line: 0.9 - each[line] * column)

    good, bad = fall(0.0, 0.1), fall(0.1, 0.0)
    assert standings(good, "FFA-LoRA falls") == ["holds"] * 3
    assert standings(good, "RoLoRA holds") == ["holds"] * 3
    assert standings(bad, "RoLoRA holds") == ["does not hold"] * 3
    assert "holds" not in standings(bad, "FFA-LoRA falls")
    assert standings(bad, "RoLoRA above FFA-LoRA") == ["does not hold"] * 3


def test_mixing_follows_the_numbers():
    good = {"ffa_lora": 0.5, "mixed": 0.7, "rolora": 0.8}
    for levels, standing in ((good, "holds"), ({**good, "mixed": 0.4}, "does not hold")):
        found = outcome("mixing", lambda column, line, levels=levels: levels[line])
        assert standings(found, "RoLoRA in 20% of the rounds") == [standing]


def test_claims_need_their_methods():
    found = outcome("table1", lambda column, line: 0.5, methods=("rolora",))
    assert list(claims(found)) == []
    assert len(list(tables(found))) == 2


def test_the_papers_figures_are_beside_ours():
    table = next(iter(tables(table1())))
    row = dict(zip(table.columns, table.rows[3], strict=False))
    assert table.rows[3][0] == "RoLoRA"
    assert row["50 clients: paper"] == "82.98"
    assert table.rows[3][6].startswith("80 ± 1.")
    assert table.rows[4][:3] == ("always the commonest label", "-", "35")


def test_a_rate_at_the_end_of_the_grid_is_marked():
    found = table1()
    place = next(iter(found.runs.chosen))
    found.runs.chosen[place] = 5e-4
    cost = list(tables(found))[1]
    assert cost.rows[0][1] == "0.0005 (end of the grid)"
    assert cost.rows[1][1] == "0.001"
