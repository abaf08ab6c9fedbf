"""The GLUE experiment: its settings, its runs, what it decides from them, what it leaves behind."""

import pytest
from invented import glue_directory, run, says_all, settings
from rich.console import Console

from experiments import short_runs, trials
from experiments.glue.config import PRESETS, GlueConfig
from experiments.glue.presets import (
    AVERAGE,
    PAPER,
    budgets,
    lines_of,
    sends_one_factor,
    settings_of,
    upper_half,
)
from experiments.glue.runs import Case, trial
from experiments.glue.tasks import tasks_of
from experiments.methods import PAPER_METHODS, title_of
from experiments.trials import Trial, TrialWorker, run_trials
from experiments.workspace import Workspace
from rolora.core.errors import BadInput
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method
from rolora.methods import METHODS
from rolora.model.targets import layer_numbers

QUIET = Console(quiet=True)


def glue(**settings):
    return GlueConfig.model_validate(settings)


def config_of(settings, task="qnli", column=0, row=0, rate=1e-3, seed=0, test=True):
    (data,) = [t for t in tasks_of(settings, None, lambda _: None) if t.name == task]
    setting, line = settings_of(settings)[column], lines_of(settings)[row]
    return trial(settings, Case(data, setting, line), rate, seed, test).config


# -- settings -----------------------------------------------------------------------------------


def test_the_paper_is_the_default():
    settings = glue()
    assert settings.rates == (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
    assert len(settings.seeds) == 5
    run = config_of(settings)
    assert run.model.name == "roberta-large"
    assert (run.lora.r, run.lora.lora_alpha, run.lora.dropout) == (4, 32, 0.1)
    assert run.lora.target_modules == ("query", "value")
    assert (run.data.name, run.data.max_length) == ("qnli", 128)
    assert (run.optimizer.local_steps, run.optimizer.batch_size) == (20, 32)
    assert run.partition.name == "iid"
    assert run.model.head == "frozen"
    assert config_of(settings, "sst2").optimizer.batch_size == 64


@pytest.mark.parametrize(
    ("task", "rounds"), [("sst2", (500, 76, 30)), ("qnli", (500, 76, 30)), ("rte", (200, 30, 12))]
)
def test_rounds_of_table_6(task, rounds):
    settings = glue()
    runs = [config_of(settings, task, column) for column in range(3)]
    assert [run.federation.clients for run in runs] == [3, 20, 50]
    assert tuple(run.rounds for run in runs) == rounds


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_made_of_runs_that_can_be(preset, small):
    settings = glue(preset=preset, small=small)
    tasks = tasks_of(settings, None, lambda _: None)
    names = set()
    for task in tasks:
        for setting in settings_of(settings):
            for line in lines_of(settings):
                case = Case(task, setting, line)
                made = trial(settings, case, settings.rates[0], 0, test=True)
                checked_method(made.config)
                assert made.config.rounds % 2 == 0
                assert made.config.evaluation.every % 2 == 0
                names.add(made.name)
                tuned = trial(settings, case, settings.rates[0], 100, test=False)
                assert tuned.config.evaluation.every == tuned.config.rounds
    assert len(names) == len(tasks) * len(settings_of(settings)) * len(lines_of(settings))


@pytest.mark.parametrize("preset", PAPER)
def test_every_figure_of_the_paper_has_its_place(preset):
    settings = glue(preset=preset, ranks=(4, 8)) if preset == "table1" else glue(preset=preset)
    words = {setting.words.removesuffix(", rank 4") for setting in settings_of(settings)}
    lines = {line.key for line in lines_of(settings)}
    for task, setting, line in PAPER[preset]:
        assert task in (*settings.tasks, AVERAGE)
        assert setting in words
        assert line in lines


def test_equal_bytes_are_equal():
    settings = glue(preset="equal_bytes")
    layers = {
        line.key: layer_numbers(line.layers or settings.layers) or list(range(24))
        for line in lines_of(settings)
    }
    assert layers["fedit"] == list(range(12, 24))
    assert len(layers["rolora"]) == len(layers["ffa_lora"]) == 2 * len(layers["fedit"])
    assert upper_half(glue(preset="equal_bytes", small=True)) == "5"


def test_equal_bytes_ask_the_method_what_travels():
    one = {name for name in METHODS if sends_one_factor(name)}
    assert {"rolora", "ffa_lora"} <= one
    assert not {"fedit", "flexlora"} & one
    lines = lines_of(glue(preset="equal_bytes", methods="all"))
    assert {line.key for line in lines if line.layers is None} == one


def test_the_papers_methods_are_there_and_have_its_names():
    assert set(PAPER_METHODS) <= set(METHODS)
    assert [title_of(name) for name in PAPER_METHODS] == [
        *("LoRA (FedAvg)", "FFA-LoRA", "FlexLoRA", "RoLoRA")
    ]


def test_budgets_are_the_papers():
    assert budgets(24) == [
        ("0-23", ("query", "value")),
        ("12-23", ("query", "value")),
        ("18-23", ("query", "value")),
        ("21-23", ("value",)),
    ]
    assert [layers for layers, _ in budgets(6)] == ["0-5", "3-5", "5", "5"]


def test_local_steps_keep_the_number_of_batches():
    one, many = (config_of(glue(preset="local_steps"), "mnli", column) for column in (0, 1))
    assert (one.optimizer.local_steps, many.optimizer.local_steps) == (1, 20)
    assert one.rounds == 20 * many.rounds


def test_mixing_is_a_share_of_the_rounds():
    run = config_of(glue(preset="mixing", mix=0.3), "mnli", row=2)
    assert (run.method.name, run.method.switch_at) == ("rolora", 0.3)


def test_dirichlet_is_the_papers():
    runs = [config_of(glue(preset="dirichlet"), "mnli", column) for column in (0, 1)]
    found = [(run.partition.dirichlet_alpha, run.federation.clients) for run in runs]
    assert found == [(0.5, 10), (1.0, 15)]
    assert {run.partition.name for run in runs} == {"dirichlet"}


def test_ones_own_settings_come_last():
    settings = glue(small=True, preset="rank2", ranks=[2, 8], rounds=40, methods="all")
    assert settings.ranks == (2, 8)
    assert settings.rounds == 40
    assert settings.model == "minilm"
    assert "flora" in settings.methods


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["seeds=[0,100]"], "tuning_seed = 100"),
        (["seeds=[0,0]"], "seeds = .0, 0.: must differ"),
        (["rates=[0.1,0.1]"], "rates = .0.1, 0.1.: must ascend"),
        (["preset=table2"], "preset = 'table2': must be"),
        (["methods=[rolora,fedavg]"], "methods = .'fedavg'.: known are all, or some of rolora"),
        (["tasks=[cola]"], "tasks"),
        (["learning_rate=1"], "learning_rate: unknown key"),
        (["small=true", "data=/nowhere/at/all"], "there is no such directory"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, words):
    with pytest.raises(BadInput, match=words):
        run("glue", settings, tmp_path / "out")


# -- one trial ----------------------------------------------------------------------------------


TINY = {
    "tasks": ["sst2"],
    "clients": [2, 4],
    "methods": ["fedit", "rolora"],
    "depth": 3,
    "layers": "1-2",
    "dropout": 0,
    "rounds": 8,
    "local_steps": 2,
    "batch_size": 4,
    "max_length": 16,
    "rates": [0.005, 0.02],
    "seeds": [0, 1],
    "evaluations": 2,
    "workers": 1,
}


@pytest.fixture
def tiny(tmp_path, bert):
    """``tiny(rate=..., row=...)``: a trial of seconds."""
    data = glue_directory(tmp_path / "glue")

    def made(column=0, row=1, rate=0.02, seed=0, test=True, **changes):
        settings = glue(**{**TINY, "model": bert, "data": data, **changes})
        (task,) = tasks_of(settings, None, lambda _: None)
        setting, line = settings_of(settings)[column], lines_of(settings)[row]
        return trial(settings, Case(task, setting, line), rate, seed, test)

    return made


def timeless(result):
    return {name: value for name, value in result.items() if name != "seconds"}


def test_a_trial_is_a_function_of_its_config(tiny):
    worker = TrialWorker()
    first = worker.work(tiny())
    worker.work(tiny(row=0, rate=0.1))
    again = worker.work(tiny())
    assert timeless(first) == timeless(again) == timeless(TrialWorker().work(tiny()))
    assert timeless(worker.work(tiny(seed=1))) != timeless(first)


def test_what_a_trial_leaves(tiny):
    result = TrialWorker().work(tiny())
    assert result["rounds"] == [6, 12]
    assert len(result["accuracy"]) == len(result["bytes_up_by_round"]) == 2
    assert result["bytes_up_by_round"][-1] == result["bytes_up"]
    assert result["bytes_up_by_round"][0] == pytest.approx(result["bytes_up"] / 2, rel=0.1)
    assert result["client_accuracy"].keys() == {"0", "1"}
    assert min(result["client_accuracy"].values()) <= result["test_accuracy"]
    assert not result["diverged"]
    both = TrialWorker().work(tiny(row=0))
    assert result["bytes_up"] == pytest.approx(both["bytes_up"] / 2, rel=0.1)


def test_data_and_model_are_loaded_once(tiny, tmp_path, monkeypatch):
    loaded = []
    load = trials.load
    monkeypatch.setattr(
        trials, "load", lambda config, **given: loaded.append(config) or load(config, **given)
    )
    alternating = [
        tiny(row=row, seed=seed, column=column)
        for row in (0, 1)
        for column in (0, 1)
        for seed in (0, 1)
    ]
    found = run_trials("tries", alternating, Workspace.at(tmp_path, QUIET), 1)
    assert len(loaded) == 2
    # Their order is the one asked for.
    assert [len(result["client_accuracy"]) for result in found] == [2, 2, 4, 4] * 2
    alone = TrialWorker().work(alternating[5])
    assert timeless(alone) == timeless(found[5])


def test_other_layers_are_another_model(tiny):
    worker = TrialWorker()
    worker.work(tiny(layers="2"))
    assert timeless(worker.work(tiny())) == timeless(TrialWorker().work(tiny()))


@pytest.mark.parametrize("test", [False, True])
def test_a_diverged_trial_scores_chance(tiny, test):
    result = TrialWorker().work(tiny(rate=1e30, row=0, test=test))
    assert result["diverged"]
    assert result["rounds"] == ([6, 12] if test else [12])
    assert result["accuracy"] == [0.5] * len(result["rounds"])
    assert result["test_accuracy"] == (0.5 if test else None)
    assert result["client_accuracy"] is None


def test_tuning_never_looks_at_the_test_examples(tiny, monkeypatch):
    asked = []
    evaluate = InProcess.evaluate

    def watched(self, plan, split):
        asked.append(split)
        return evaluate(self, plan, split)

    monkeypatch.setattr(InProcess, "evaluate", watched)
    tuned = TrialWorker().work(tiny(test=False))
    assert asked == ["validation"]
    assert tuned["test_accuracy"] is None
    asked.clear()
    judged = TrialWorker().work(tiny())
    assert asked == ["validation", "validation", "test"]
    assert judged["accuracy"][-1] == tuned["accuracy"][-1]


def test_a_trials_cell_depends_on_its_data_and_test(tiny):
    one = tiny()
    assert Trial(one.name, one.config, True).settings() == one.settings()
    assert Trial(one.name, one.config, False).settings() != one.settings()
    assert tiny(max_length=15).settings() != one.settings()


@pytest.mark.slow
def test_processes_give_the_same_numbers(tiny, tmp_path):
    asked = [tiny(row=row, seed=seed) for row in (0, 1) for seed in (0, 1)]
    found = run_trials("tries", asked, Workspace.at(tmp_path / "out", QUIET), 2)
    worker = TrialWorker()
    assert list(map(timeless, found)) == [timeless(worker.work(one)) for one in asked]


# -- the whole experiment -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_dir):
    directory = tmp_path_factory.mktemp("glue")
    data = glue_directory(directory / "glue")
    given = settings(**TINY, model=model_dir("bert"), data=data)
    return run("glue", given, directory / "out")


@pytest.fixture
def ran(monkeypatch):
    """The tests of the trials that are run from here on."""
    tests, run_short = [], short_runs.run_short
    monkeypatch.setattr(
        trials, "run_short", lambda *call: tests.append(call[-1]) or run_short(*call)
    )
    return tests


def test_what_it_leaves(finished):
    pictures = {f"{name}.{kind}" for name in ("settings", "curves_sst2") for kind in ("png", "svg")}
    assert finished.files().keys() == {"report.md", "report.json", *pictures}
    # 2 settings of 2 methods at 2 rates to tune them, then with 2 seeds.
    assert len(finished.cells()) == 8 + 8
    assert "GLUE's SST-2 from a directory" in finished.page()
    says_all(finished)
    results = finished.record()["results"]
    assert len(results["final"]) == 4
    line = results["final"][0]
    tuned = {
        item["rate"]: item["validation"]
        for item in results["grid"]
        if all(item[name] == line[name] for name in ("task", "setting", "line"))
    }
    assert tuned[line["rate"]] == max(tuned.values())


def test_finished_cells_are_not_run_again(finished, ran):
    before = finished.files()
    again = finished.again()
    assert ran == []
    assert again.findings.claims == finished.findings.claims
    assert finished.files() == before


def test_a_lost_cell_is_run_again_alone(finished, ran):
    sorted((finished.out / "cells").iterdir())[0].unlink()
    again = finished.again()
    assert len(ran) == 1
    assert again.findings.claims == finished.findings.claims


def test_a_preset_and_a_size_have_a_directory_of_their_own():
    from experiments.glue.experiment import directory

    assert directory(glue()) == "glue-table1"
    assert directory(glue(preset="rank2", small=True)) == "glue-rank2-small"
