"""What comes after RoLoRA: its variants, what is decided of them, and what a run leaves."""

import json

import pytest
import torch
from invented import MNIST, digits_directory, run, says_all, settings
from rich.console import Console

import small
from experiments.beyond import halves as beyond_halves
from experiments.beyond.config import BeyondConfig
from experiments.beyond.figure import BETTER, WORSE, differences
from experiments.beyond.halves import GlueHalf, MnistHalf
from experiments.beyond.report import claims, results, tables
from experiments.beyond.runs import Line, Place, run_all
from experiments.beyond.variants import variants
from experiments.drawing import INK
from experiments.glue.config import GlueConfig
from experiments.glue.runs import rounds_of
from experiments.glue.tasks import tasks_of
from experiments.methods import ROLORA
from experiments.mnist.net import TwoLayerNet, two_layer_model
from experiments.mnist.runs import MnistConfig
from experiments.short_runs import Ending
from experiments.workspace import Workspace
from rolora.config import Config, EvaluationConfig, OptimizerConfig
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.engines.preparation import checked_method
from rolora.methods import options_of
from rolora.records.wire import payload_bytes
from rolora.server.ledger import Ledger

ALL = variants(0.5)
every_variant = pytest.mark.parametrize("variant", ALL.values(), ids=ALL)


# -- the variants -------------------------------------------------------------------------------


@every_variant
def test_a_variant_is_rolora_but_for_what_it_says(variant):
    run = small.config(optimizer={"name": "sgd", "momentum": 0.9, "lr": 0.03})
    changed = variant.of(run)
    assert checked_method(changed)
    assert Config.model_validate(changed.model_dump()) == changed
    sections = {name for name, value in changed if value != getattr(run, name)}
    said = {name for name in ("method", "optimizer", "server") if getattr(variant, name)}
    assert sections == said | ({"optimizer"} if variant.rate_of_b != 1 else set())
    assert (sections == set()) == (variant.key == ROLORA)
    assert changed.optimizer.lr_b == (
        None if variant.rate_of_b == 1 else pytest.approx(0.03 * variant.rate_of_b)
    )


@every_variant
def test_a_variant_aggregates_exactly_and_sends_one_factor_a_round(variant):
    """In every round the mean of the clients' products, at a half of what both factors take."""
    settings = variant.of(small.config(rounds=6, optimizer={"momentum": 0.9}))
    engine, method = small.engine(settings), small.method(settings)
    initial = engine.model.initial_adapter(settings.lora.r, settings.seed)
    state, ledger = method.init(initial), Ledger()
    for _ in range(6):
        plans = [ledger.narrow(method.plan(state, client)) for client in engine.clients]
        updates = list(engine.train(plans))
        start, new = method.start(state).parts, method.aggregate(state, iter(updates))
        total = sum(update.num_examples for update in updates)
        for module in small.TARGETS:
            ends = [(u.num_examples / total, start.overwrite(u.parts)) for u in updates]
            mean = sum(w * (end[module, "B"] @ end[module, "A"]) for w, end in ends)
            ours = new.parts[module, "B"] @ new.parts[module, "A"]
            torch.testing.assert_close(ours, mean, rtol=0, atol=1e-6)
        for update in updates:
            assert len(update.parts.parts) == 1
        for plan in plans:
            ledger.replied(plan)
            ledger.finished(plan, new)
        state = new


def test_on_mnist_a_round_sends_half_of_both_factors_whichever_trains():
    mnist = BeyondConfig().mnist
    layout = two_layer_model(TwoLayerNet(784, mnist.width, 10, 0)).layout(mnist.r)
    A, B, both = (payload_bytes(layout.select(set(parts))) for parts in ("A", "B", "AB"))
    assert A == B
    assert both == pytest.approx(2 * A, rel=0.01)


# -- the settings -------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_two_experiments_but_for_what_is_said():
    config = BeyondConfig()
    changed = {"width", "momentum", "rates"}
    for name, value in MnistConfig():
        assert (getattr(config.mnist, name) != value) == (name in changed), name
    small_table = GlueConfig(small=True)
    changed = {"tasks", "clients", "methods", "rounds", "local_steps", "rates", "seeds"}
    for name, value in small_table:
        assert (getattr(config.glue, name) != value) == (name in changed), name
    assert config.mnist.seeds == config.glue.seeds == (0, 1, 2, 3, 4)


def test_ones_own_settings_come_last():
    config = parse_overrides(
        BeyondConfig, ["mnist.rounds=7", "glue.rounds=40", "glue.seeds=[5]"], "beyond"
    )
    assert (config.mnist.rounds, config.mnist.width) == (7, 784)
    assert (config.glue.rounds, config.glue.small, config.glue.seeds) == (40, True, (5,))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("variants=[gaug]", ["variants = ['gaug']", "gauge_transport"]),
        ("on=mnst", ["on = 'mnst'", "did you mean mnist?"]),
        ("glue.preset=mixing", ["glue.preset = 'mixing'", "'table1'"]),
        ("mnist.tuning_seed=0", ["mnist", "tuning_seed = 0"]),
        ("seeds=[1]", ["seeds: unknown key"]),
    ],
)
def test_wrong_settings_are_named(override, words, tmp_path):
    with pytest.raises(BadInput) as raised:
        run("beyond", [override], tmp_path)
    assert all(word in str(raised.value) for word in words)


def test_rolora_is_always_among_the_variants():
    keys = [variant.key for variant in BeyondConfig(variants=("bba", "gauge")).compared()]
    assert keys == [ROLORA, "gauge", "bba"]
    assert len(BeyondConfig().compared()) == len(ALL) == 11


# -- the runs -----------------------------------------------------------------------------------


def ending(test, accuracy=(0.2, 0.4), **changes):
    base = {
        "accuracy": list(accuracy),
        "test_accuracy": test,
        "diverged": False,
        "bytes_up": 100,
        "bytes_down": 100,
        "seconds": 1.0,
    }
    return Ending(**{**base, **changes})


class Planted:
    """A half whose runs end as a function of variant, rate and seed says."""

    places = (Place("here", "in one place", "none"), Place("there", "in another", "none"))

    def __init__(self, ends):
        self.ends, self.asked = ends, []
        self.config = MnistConfig(rates=(0.1, 0.2, 0.3), seeds=(0, 1), tuning_seed=9)

    def run(self, what, wanted, test):
        self.asked += [(p.key, v.key, rate, seed, test) for p, v, rate, seed in wanted]
        return [self.ends(v.key, rate, seed, test) for _, v, rate, seed in wanted]


def test_each_variant_is_judged_at_the_rate_that_is_best_at_the_tuning_seed():
    best = {ROLORA: 0.2, "gauge": 0.3}

    def ends(variant, rate, seed, test):
        good = rate == best[variant]
        if seed != 9:  # a rate that would have been better there is not looked at
            return ending(0.5 + seed, (0.1, 0.0 if good else 1.0))
        return ending(None, (0.1, 0.9 if good else 0.5))

    half = Planted(ends)
    compared = [ALL[ROLORA], ALL["gauge"]]
    lines = run_all([half], compared)
    assert {key: line.rate for key, line in lines.items()} == {
        ("here", ROLORA): 0.2,
        ("here", "gauge"): 0.3,
        ("there", ROLORA): 0.2,
        ("there", "gauge"): 0.3,
    }
    tuned = [asked for asked in half.asked if not asked[-1]]
    judged = [asked for asked in half.asked if asked[-1]]
    assert {seed for *_, seed, _ in tuned} == {9}
    assert {seed for *_, seed, _ in judged} == {0, 1}
    assert all(rate == best[variant] for _, variant, rate, *_ in judged)
    assert lines["there", "gauge"].test == [0.5, 1.5]
    assert lines["there", "gauge"].grid.keys() == {0.1, 0.2, 0.3}


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path, Console(quiet=True))


def test_mnists_runs_are_the_experiments_with_the_variants_changes(monkeypatch, workspace):
    seen = []
    monkeypatch.setattr(beyond_halves, "run_jobs", lambda what, jobs, *rest: seen.extend(jobs))
    half = MnistHalf(BeyondConfig().mnist, MNIST, 1, workspace)
    assert [place.key for place in half.places] == ["5x2", "10x1"]
    half.run("runs", [(half.places[1], ALL["b5"], 0.01, 3)], test=True)
    (job,) = seen
    assert job.name == "10x1 b5 lr=0.01 seed=3 test"
    assert (job.width, job.test, job.config.federation.clients) == (784, True, 10)
    assert job.config.optimizer == OptimizerConfig(
        name="sgd", lr=0.01, lr_b=0.05, momentum=0.9, local_steps=20, batch_size=64
    )


def test_the_language_runs_are_table_1_with_the_variants_changes(monkeypatch, tmp_path, workspace):
    seen = []
    monkeypatch.setattr(beyond_halves, "run_trials", lambda what, found, *rest: seen.extend(found))
    config = BeyondConfig().glue
    tasks = tasks_of(config, tmp_path, lambda _: None)
    half = GlueHalf(config, tasks, 1, workspace)
    (place,) = half.places
    assert place.key == "sst2 20 clients"
    assert "Rotten Tomatoes" in place.data
    half.run("tuning", [(place, ALL["gauge_transport"], 0.005, 100)], test=False)
    (trial,) = seen
    rounds = rounds_of(config, "sst2", beyond_halves.settings_of(config)[0])
    assert (trial.config.rounds, trial.config.federation.clients) == (rounds, 20)
    assert trial.config.method == options_of("rolora", gauge="orthonormal")
    assert trial.config.optimizer == OptimizerConfig(
        lr=0.005, state="transport", local_steps=5, batch_size=4
    )
    assert trial.config.evaluation == EvaluationConfig(every=rounds, batch_size=64)
    assert not trial.test


def test_mnists_own_cells_stay_what_they_were():
    """A momentum of 0 is what a run had before there was a setting for it."""
    assert MnistConfig().momentum == OptimizerConfig().momentum == 0.0


# -- what is decided ----------------------------------------------------------------------------

BASE = (0.50, 0.52, 0.48, 0.51, 0.49)
NOISE = (0.001, -0.002, 0.003, 0.0, -0.001)


def lines_where(shifts, seeds=5, keys=("here", "there")):
    """Lines of planted test accuracies: a variant's shift over RoLoRA by place."""
    found = {}
    for key in keys:
        place = Place(key, f"in {key}", "none")
        for variant, shift in {ROLORA: dict.fromkeys(keys, 0.0), **shifts}.items():
            noise = NOISE if variant != ROLORA else (0,) * 5
            ends = [
                ending(base + shift[key] + n)
                for base, n in list(zip(BASE, noise, strict=True))[:seeds]
            ]
            found[key, variant] = Line(place, ALL[variant], 0.1, {0.1: ends[0]}, ends)
    return found


SHIFTS = {
    "gauge": {"here": 0.1, "there": 0.1},
    "persist": {"here": 0.1, "there": 0.0},
    "transport": {"here": 0.1, "there": -0.1},
    "bba": {"here": -0.1, "there": -0.1},
}


def test_claims_follow_the_numbers():
    found = {c.text: c.standing for c in claims(BeyondConfig(), lines_where(SHIFTS))}
    assert found == {
        "Orthonormal gauge: ends above RoLoRA (in here)": "holds",
        "Optimiser state kept: ends above RoLoRA (in here)": "holds",
        "Optimiser state carried: ends above RoLoRA (in here)": "holds",
        "Schedule BBA: ends above RoLoRA (in here)": "does not hold",
        "Orthonormal gauge: ends above RoLoRA (in there)": "holds",
        "Optimiser state kept: ends above RoLoRA (in there)": "not decided at this size",
        "Optimiser state carried: ends above RoLoRA (in there)": "does not hold",
        "Schedule BBA: ends above RoLoRA (in there)": "does not hold",
        "Orthonormal gauge: ends above RoLoRA on both tasks, in every place": "holds",
        "Optimiser state kept: ends above RoLoRA on both tasks, in every place": (
            "not decided at this size"
        ),
        "Optimiser state carried: ends above RoLoRA on both tasks, in every place": (
            "does not hold"
        ),
        "Schedule BBA: ends above RoLoRA on both tasks, in every place": "does not hold",
    }


def test_a_variant_that_is_above_by_itself_may_not_be_so_among_many():
    """Holm's correction within a place's table."""
    slight = {"gauge": dict.fromkeys(("here", "there"), 0.0022)}
    others = {key: dict.fromkeys(("here", "there"), 0.0) for key in ("bba", "ab", "persist")}
    text = "Orthonormal gauge: ends above RoLoRA (in here)"
    alone = {c.text: c for c in claims(BeyondConfig(), lines_where(slight))}[text]
    among = {c.text: c for c in claims(BeyondConfig(), lines_where(slight | others))}[text]
    assert (alone.standing, among.standing) == ("holds", "not decided at this size")
    assert "after Holm's correction" in among.evidence


def test_four_seeds_decide_nothing_and_one_task_does_not_speak_for_both():
    four = claims(BeyondConfig(), lines_where(SHIFTS, seeds=4))
    assert {claim.standing for claim in four} == {"not decided at this size"}
    alone = list(claims(BeyondConfig(on="mnist"), lines_where(SHIFTS)))
    assert len(alone) == 8
    assert not any("both" in claim.text for claim in alone)


def test_the_table_says_difference_bytes_and_what_diverged():
    lines = lines_where({"bba": {"here": 0.1, "there": 0.0}})
    ends = [ending(0.6, bytes_up=80), ending(0.5, diverged=True, bytes_up=80)] * 2
    old = lines["here", "bba"]
    grid = {0.1: ends[0], 0.3: ends[0]}
    lines["here", "bba"] = Line(old.place, old.variant, 0.3, grid, [*ends, ends[0]])
    rolora, bba = next(iter(tables(lines))).rows
    assert rolora[0] == "RoLoRA"
    assert rolora[4] == "50 ± 1.6"
    assert rolora[5] == "-"
    assert rolora[8].endswith("100 %")
    assert bba[0] == "Schedule BBA (2 of 5 diverged)"
    assert bba[1] == "0.3 (end of the grid)"
    assert bba[5].startswith("+6.00 (")
    assert rolora[6] == rolora[7] == "-"
    assert float(bba[6]) == pytest.approx(float(bba[7]))  # the only one in its table
    assert bba[8].endswith(", 80 %")


def test_the_figure_shows_every_difference_with_its_interval():
    figure = differences(lines_where(SHIFTS))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["in here", "in there"]
    here, there = figure.axes
    means = [[line.get_xdata()[0] for line in dots(axes)] for axes in (here, there)]
    assert means[0] == pytest.approx([10.02, 10.02, 10.02, -9.98])
    assert means[1] == pytest.approx([10.02, 0.02, -9.98, -9.98])
    hues = [line.get_color() for line in dots(there)]
    assert hues == [BETTER, INK, WORSE, WORSE]
    assert [label.get_text() for label in here.get_yticklabels()] == [
        ALL[key].label for key in SHIFTS
    ]


def dots(axes):
    return [line for line in axes.lines if line.get_marker() == "o"]


def test_results_hold_every_run():
    found = results(lines_where(SHIFTS))["lines"]
    assert len(found) == 2 * 5
    assert found[1]["variant"] == "gauge"
    assert len(found[1]["seeds"]) == 5
    json.dumps(found)


# -- the whole experiment -----------------------------------------------------------------------

TINY = {
    "on": "mnist",
    "variants": "[gauge_transport,adaptive,server_momentum]",
    "workers": 1,
    "mnist.width": 24,
    "mnist.r": 4,
    "mnist.rounds": 3,
    "mnist.local_steps": 2,
    "mnist.batch_size": 8,
    "mnist.rates": "[0.05,0.2]",
    "mnist.seeds": "[0,1]",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("beyond")
    given = settings(**{**TINY, "mnist.data": digits_directory(directory / "digits")})
    return run("beyond", given, directory / "out")


def test_what_it_leaves(finished):
    assert finished.files().keys() == {"report.md", "report.json", "beyond.png", "beyond.svg"}
    # 4 variants in 2 places, 2 rates to tune them, then 2 seeds.
    assert len(finished.cells()) == 8 * 2 + 8 * 2
    assert "MNIST from IDX files, 300 and 100 digits" in finished.page()
    says_all(finished)
    lines = finished.record()["results"]["lines"]
    assert len(lines) == 8
    for line in lines:
        tuned = {rate: found["validation"] for rate, found in line["tuning"].items()}
        assert tuned[f"{line['rate']:g}"] == max(tuned.values())


def test_finished_cells_are_not_run_again(finished, monkeypatch):
    before = finished.files()
    monkeypatch.setattr("experiments.mnist.train.train", None)
    finished.again()
    assert finished.files() == before
