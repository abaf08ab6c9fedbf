"""The search for a preset: what is run in which order, how rates are chosen, what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
from invented import SPREAD, run, says_all, settings

from experiments.arena.config import ArenaConfig, competitors
from experiments.cells import Cells
from experiments.claims import mean_std
from experiments.contest import Line, NotFinished, collapsed, line_up, reading
from experiments.preset.config import (
    BBA,
    FULL,
    PLAIN,
    QUICKSTART,
    RECOMMENDED,
    SHORT,
    PresetConfig,
    recipes,
)
from experiments.preset.figure import figures
from experiments.preset.report import claims, summary, tables
from experiments.short_runs import TrialResult
from experiments.standings import corrected, in_place
from experiments.tuning import searched
from federated import write_run
from rolora.config import load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.records.units import byte_size

PLACES = PresetConfig().known_places()

# -- what is run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(PLAIN, "paper"), (RECOMMENDED, "gauge"), (FULL, "quickstart")],
)
def test_a_run_is_the_shipped_config(recipe, name):
    shipped, place = load_config(name), PLACES["dirichlet0.5"]
    ours = place.trial(recipe.key, recipe.of, shipped.optimizer.lr, 0, True).config
    assert ours.model_dump(exclude={"engine"}) == shipped.model_dump(exclude={"engine"})


def test_every_recipe_is_run_once_in_every_place_and_the_most_telling_first():
    assert len(recipes()) == len({recipe.key for recipe in recipes()}) == 17
    waves = [[(one, at.key) for one, at in wave] for wave in PresetConfig().waves()]
    every = [key for wave in waves for key in wave]
    assert len(every) == len(set(every)) == 17 * 10
    assert set(every) == set(product(recipes(), (*SHORT, *QUICKSTART)))
    assert waves[0] == [(recipe, place) for place in SHORT for recipe in (PLAIN, FULL)]
    skewed = [wave for wave in waves if wave[0][1] == "dirichlet0.5"]
    assert skewed[0] == [(r, place) for place in QUICKSTART[:2] for r in (PLAIN, FULL)]
    assert (RECOMMENDED, "dirichlet0.5") in skewed[1]


@pytest.mark.parametrize("recipe", [PLAIN, RECOMMENDED, FULL])
@pytest.mark.parametrize("place", SHORT)
def test_a_shipped_presets_run_is_the_arenas(recipe, place):
    theirs = competitors()[recipe.key], ArenaConfig().known_places()[place]
    ours = PLACES[place].trial(recipe.key, recipe.of, 0.05, 3, True)
    other = theirs[1].trial(theirs[0].key, theirs[0].of, 0.05, 3, True)
    assert ours.name == other.name
    assert ours.config == other.config


def test_the_schedule_is_the_default_start_with_two_rounds_of_b():
    run = BBA.of(PLACES["iid"].base)
    assert (run.method.schedule, run.method.gauge, BBA.label) == ("BBA", "none", "Schedule BBA")


def test_some_recipes_in_some_places():
    config = PresetConfig(recipes=("gauge",), places=("iid",))
    assert [recipe.key for wave in config.waves() for recipe, _ in wave] == ["rolora", "gauge"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("recipes=[gouge]", "recipes"),
        ("places=[moon]", "places"),
        ("tuning_seeds=[4,5]", "tuning_seeds"),
        ("rates=[0.01,0.005]", "rates"),
        ("rounds=3", "rounds"),
    ],
)
def test_settings_that_would_not_be_fair_are_refused(override, named):
    with pytest.raises(BadInput, match=named):
        parse_overrides(PresetConfig, [override], "preset")


# -- how rates are chosen -----------------------------------------------------------------------


def hill(peaks):
    """Runs whose validation accuracy falls off, by factors of two, from each key's best rate; the
    tuning seeds disagree by a little.
    """
    from math import log2

    def run(what, wanted, test):
        return [
            {"accuracy": [0.9, 0.8 - 0.05 * abs(log2(rate / peaks[key])) + 0.01 * (seed % 2)]}
            for key, rate, seed in wanted
        ]

    return run


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (5e-3, [2.5e-3, 5e-3, 1e-2]),
        (2e-2, [2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2]),
        (1.25e-3, [6.25e-4, 1.25e-3, 2.5e-3, 5e-3, 1e-2]),
        (1.0, [2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2]),
    ],
)
def test_a_grid_widens_until_its_best_lies_inside_or_the_bounds_end_it(peak, tried):
    config = PresetConfig()
    runs = hill({"it": peak, "other": 5e-3})
    grid, _ = searched(config.grid, config.tuning_seeds, ["it", "other"], runs)
    assert sorted({rate for key, rate, _ in grid if key == "it"}) == pytest.approx(tried)
    assert sorted({rate for key, rate, _ in grid if key == "other"}) == [2.5e-3, 5e-3, 1e-2]
    assert {seed for _, _, seed in grid} == {100, 101}


# -- what is told -------------------------------------------------------------------------------


def ending(test, half=0.6, share=0.5, diverged=False) -> TrialResult:
    return TrialResult(
        rounds=[4, 8, 12, 16],
        accuracy=[0.5, half, 0.7, test],
        test_accuracy=0.5 if diverged else test,
        diverged=diverged,
        bytes_up=1000,
        bytes_down=1000,
        seconds=1.0,
        bytes_up_by_round=[1, 2, 3, 4],
        client_accuracy=None,
        constant=None if diverged else 0.5,
        top_share=None if diverged else share,
    )


def line(recipe, split, mean, half=0.6, scale=1.0):
    finals = [ending(mean + scale * s, half + scale * s) for s in SPREAD]
    grid = {(rate, seed): ending(0.7) for rate in (2.5e-3, 5e-3) for seed in (100, 101)}
    return Line(recipe, PLACES[split], 5e-3, grid, finals)


def planted(*lines):
    return {(one.entrant.key, one.place.key): one for one in lines}


def p_values(lines, split):
    return corrected(in_place(lines, PLACES[split]), lines[PLAIN.key, split])


def test_collapsed_is_a_constant_guess_or_one_label_or_nan():
    assert not collapsed(ending(0.7))
    assert collapsed(ending(0.505))
    assert collapsed(ending(0.7, share=0.99))
    assert collapsed(ending(0.7, diverged=True))


def test_the_full_recipe_is_judged_by_corrected_tests_and_its_collapsed_runs():
    split = "dirichlet0.5"
    rolora, full = line(PLAIN, split, 0.70), line(FULL, split, 0.75, half=0.72, scale=0.5)
    found = {claim.text: claim for claim in claims(planted(rolora, full))}
    assert [claim.standing for claim in found.values()] == ["holds"] * 4
    spoiled = replace(full, final=[ending(0.5), *full.final[1:]])
    found = {claim.text: claim for claim in claims(planted(rolora, spoiled))}
    assert (
        found["All pieces: no collapsed run (the quickstart, Dirichlet 0.5)"].standing
        == "does not hold"
    )
    assert (
        "1 of 5" in found["All pieces: no collapsed run (the quickstart, Dirichlet 0.5)"].evidence
    )
    # A test that holds alone, and not among fifteen.
    close = line(FULL, split, 0.712, half=0.72, scale=0.5)
    others = [line(recipe, split, 0.70) for recipe in recipes() if recipe not in (PLAIN, FULL)]
    alone, among = planted(rolora, close), planted(rolora, close, *others)
    assert p_values(alone, split)[FULL.key] < 0.05 < p_values(among, split)[FULL.key]
    above = "All pieces: ends above RoLoRA (the quickstart, Dirichlet 0.5)"
    assert {c.text: c for c in claims(alone)}[above].standing == "holds"
    assert {c.text: c for c in claims(among)}[above].standing == "not decided at this size"


def test_where_shares_are_equal_it_must_not_be_worse():
    rolora = line(PLAIN, "iid", 0.70)
    for mean, standing in ((0.70, "holds"), (0.66, "does not hold")):
        _, first, *_ = claims(planted(rolora, line(FULL, "iid", mean, scale=0.9)))
        assert first.text == "All pieces: not a point below RoLoRA (the quickstart, equal shares)"
        assert first.standing == standing


def test_the_rule_takes_every_place():
    skewed = (line(PLAIN, "dirichlet0.5", 0.70), line(FULL, "dirichlet0.5", 0.75, scale=0.5))
    for mean, standing in ((0.70, "holds"), (0.66, "does not hold")):
        equal = (line(PLAIN, "iid", 0.70), line(FULL, "iid", mean, scale=0.9))
        rule, *_ = claims(planted(*skewed, *equal))
        assert rule.text.startswith("All pieces are what to run")
        assert rule.standing == standing
        assert rule.evidence.startswith("4 of the 4" if standing == "holds" else "3 of the 4")
    [rule, *_] = claims(planted(skewed[0], replace(skewed[1], final=skewed[0].final)))
    assert rule.standing == "not decided at this size"
    assert list(claims(planted(skewed[0]))) == []


def test_tables_count_collapsed_runs_and_the_summary_names_what_is_missing():
    split = "dirichlet0.1"
    full = replace(line(FULL, split, 0.75), final=[ending(0.5), *line(FULL, split, 0.75).final[1:]])
    lines = planted(line(PLAIN, split, 0.70), full)
    [table] = tables(lines)
    assert table.title.endswith("Dirichlet 0.1")
    assert [row[6] for row in table.rows] == ["0 of 5", "1 of 5"]
    # Looks after 1, 2, 3 and 4 bytes: the mean is over all of it, and RoLoRA's end is at .70.
    rolora, full = lines.values()
    ends = [[end["accuracy"] for end in one.final] for one in (rolora, full)]
    areas = [[100 * (a / 2 + b + c + d / 2) / 3 for a, b, c, d in some] for some in ends]
    assert [row[11] for row in table.rows] == [mean_std(some) for some in areas]
    assert table.rows[1][12] == f"{byte_size(3)}, 5 of 5"
    assert "dirichlet0.5 (rolora, calibrated, recommended, " in summary(PresetConfig(), lines)
    config = PresetConfig(recipes=(FULL.key,), places=(split,))
    assert "All that was asked for is here" in summary(config, lines)
    assert list(figures(lines)) == ["preset"]
    assert figures({}) == {}


# -- a run of it --------------------------------------------------------------------------------


def test_runs_are_kept_and_told_of_without_running(model_dir, tmp_path):
    write_run(tmp_path, "any")
    sentences = tmp_path / "sentences.jsonl"
    small = settings(
        model=model_dir("bert"),
        layers="1-2",
        data=f"{{path: {sentences}, text: sentence, label: verdict, max_length: 16}}",
        clients=2,
        rounds=2,
        local_steps=1,
        rates="[0.01]",
        bounds="[0.01,0.01]",
        seeds="[0,1]",
        tuning_seeds="[100]",
        recipes=f"[{FULL.key}]",
        places="[dirichlet0.5]",
    )
    out = tmp_path / "out"
    none = run("preset", [*small, "finished=true"], out)
    assert not none.cells()
    assert "rolora on dirichlet0.5: not finished" in none.said
    first = run("preset", small, out)
    assert len(first.cells()) == 2 * (1 + 2)
    says_all(first)
    result = first.record()["results"]["lines"][0]["seeds"][0]
    assert result["constant"] == pytest.approx(0.5, abs=0.05)
    assert 0.5 <= result["top_share"] <= 1.0
    again = run("preset", [*small, "finished=true"], out)
    assert again.record()["results"] == first.record()["results"]
    assert first.record()["settings"]["threads"] == 1
    next((out / "cells").glob("*seed=1_test*")).unlink()
    part = run("preset", [*small, "finished=true"], out)
    assert len(part.record()["results"]["lines"]) == 1


def test_reading_raises_at_a_run_that_is_not_there(tmp_path):
    config = PresetConfig()
    with pytest.raises(NotFinished):
        line_up(config, [(PLAIN, PLACES["iid"])], reading(Cells(tmp_path)))
    assert json.dumps(config.model_dump(mode="json"))
