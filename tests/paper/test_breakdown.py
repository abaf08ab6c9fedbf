"""The map: which points are looked at, how the gap is measured, what is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from invented import SPREAD, digits_directory, run, says_all, settings
from test_preset import ending

from experiments.breakdown.config import AXES, CENTRE, WORST, BreakdownConfig, cases
from experiments.breakdown.gap import Gap
from experiments.breakdown.report import at_best_rates, at_each_rate, claims, summary
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.core.types import Adapter, Failure, Update

# -- which points -------------------------------------------------------------------------------


def test_the_worst_corner_comes_first_and_every_axis_goes_through_the_centre():
    points = BreakdownConfig().points()
    assert points[:2] == [WORST, CENTRE]
    assert len(points) == len(set(points)) == 2 * (2 + 3 * 2 + 3 + 5)
    for axis, values in AXES.items():
        assert {replace(CENTRE, **{axis: value}) for value in values} <= set(points)
        assert getattr(CENTRE, axis) in values


def test_all_runs_of_a_depth_have_as_many_steps_and_train_both_factors_as_often():
    config = BreakdownConfig(depths=("pooler", "net", "upper", "all"))
    for point in config.points():
        run = config.place_of(point).base
        steps = config.steps if point.depth in ("pooler", "net") else config.deep_steps
        assert run.rounds * run.optimizer.local_steps == steps
        assert run.rounds % 2 == 0
        assert (run.lora.r, run.federation.clients) == (point.r, point.clients)
        assert point.split.startswith(run.partition.name)


@pytest.mark.parametrize("override", ["tuning_seed=0", "rates=[0.1,0.01]", "axes=[r,r]"])
def test_settings_that_would_not_be_fair_are_refused(override):
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        parse_overrides(BreakdownConfig, [override], "breakdown")


# -- the gap ------------------------------------------------------------------------------------


def update(client, seed, num_examples=1, parts=("A", "B")):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (2, 5), "B": (4, 2)}
    tensors = {
        (module, part): torch.randn(shapes[part], generator=generator)
        for module in ("one", "two")
        for part in parts
    }
    return Update(client, num_examples, Adapter.of(tensors))


def test_the_gap_is_that_of_the_written_out_products():
    gap, updates = Gap(), [update(0, 0, 1), update(1, 1, 3), update(2, 2, 2)]
    for one in updates:
        gap(one)
    gap(Failure(3, "nan"))
    gap.close()
    weights, off, size = [1 / 6, 3 / 6, 2 / 6], 0.0, 0.0
    for module in ("one", "two"):
        A = [one.parts[module, "A"].double() for one in updates]
        B = [one.parts[module, "B"].double() for one in updates]
        mean = sum(w * b @ a for w, a, b in zip(weights, A, B, strict=True))
        of_means = sum(w * b for w, b in zip(weights, B, strict=True)) @ sum(
            w * a for w, a in zip(weights, A, strict=True)
        )
        off += float(((of_means - mean) ** 2).sum())
        size += float((mean**2).sum())
    assert gap.rounds == pytest.approx([(off / size) ** 0.5], rel=1e-5)


def test_a_client_that_answers_again_opens_a_round_and_one_factor_leaves_no_gap():
    gap = Gap()
    for seed in (0, 0):  # two clients alike, then two others alike
        gap(update(0, seed))
        gap(update(1, seed))
    gap(update(0, 5, parts=("B",)))
    gap.close()
    assert gap.rounds == pytest.approx([0.0, 0.0], abs=1e-6)
    gap.close()
    assert len(gap.rounds) == 2


# -- what is told -------------------------------------------------------------------------------


def planted(config, means, gap=0.3):
    """Runs with a test accuracy by method and rate, and a gap that grows with the rate."""
    found = {}
    for point in config.points():
        for case in cases(config, point):
            mean = means[case.method][config.rates_of(point).index(case.rate)]
            spread = dict(zip(config.seeds, SPREAD, strict=True)).get(case.seed, 0.0)
            scale = 1.0 if case.method == "fedit" else 0.4
            gaps = [gap * case.rate, None] if case.method == "fedit" else []
            found[case] = {**ending(mean + scale * spread), "gap": gaps}
    return found


def test_a_breakdown_is_ten_points_and_told_at_own_rates_and_at_one():
    config = BreakdownConfig(depths=("pooler",), axes=(), corners=False)
    good = [0.74, 0.75, 0.74]
    results = planted(config, {"rolora": good, "fedit": [0.75, 0.6, 0.5]})
    own, one, cost = claims(config, results)
    assert (own.standing, one.standing) == ("not decided at this size", "holds")
    assert "4 of 6 cells" in one.evidence
    assert cost.standing == "holds"
    assert [pair.rates for pair in at_best_rates(config, results)] == [(2e-2, 5e-3)] * 2
    broken = planted(config, {"rolora": good, "fedit": [0.6, 0.6, 0.5]})
    assert next(claims(config, broken)).standing == "holds"
    part = {case: end for case, end in results.items() if case.seed != 4}
    assert at_each_rate(config, part) == []
    assert WORST.key in summary(config, part)


def test_a_small_map_is_run_and_told_of_again(tmp_path):
    small = settings(
        digits=digits_directory(tmp_path / "digits"),
        depths="[net]",
        axes="[]",
        corners="false",
        net_rates="[0.05]",
        steps="40",
        seeds="[0]",
        tuning_seed="1",
    )
    first = run("breakdown", small, tmp_path / "out")
    says_all(first)
    assert len(first.cells()) == 2 * 2 * 2
    by_method = {one["method"]: one["gap"] for one in first.record()["results"]["runs"]}
    assert by_method["rolora"] == []
    assert all(one > 0 for one in by_method["fedit"][1:])
    again = run("breakdown", [*small, "finished=true"], tmp_path / "out")
    assert again.record()["results"] == first.record()["results"]
