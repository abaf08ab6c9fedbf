"""The GLUE experiment: its settings, its runs, what it decides from them, what it leaves behind."""

import json
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

import small
from experiments import EXPERIMENTS, trials
from experiments.__main__ import app
from experiments.framework import Cells
from experiments.glue.config import PRESETS, GlueConfig
from experiments.glue.experiment import run_glue
from experiments.glue.presets import AVERAGE, PAPER, budgets, lines_of, settings_of, upper_half
from experiments.glue.report import Outcome, claims, tables
from experiments.glue.runs import Runs, key, trial
from experiments.glue.stand_ins import STAND_INS, write_stand_in
from experiments.glue.tasks import left_out, tasks_of
from experiments.trials import Trial, TrialResult, TrialWorker, run_trials
from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method
from rolora.model.lora import layer_numbers

QUIET = Console(quiet=True)


def glue(**settings):
    return GlueConfig.model_validate(settings)


def config_of(settings, task="qnli", column=0, row=0, rate=1e-3, seed=0, test=True):
    (data,) = [t for t in tasks_of(settings, None, lambda _: None) if t.name == task]
    setting, line = settings_of(settings)[column], lines_of(settings)[row]
    return trial(settings, data, setting, line, rate, seed, test).config


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
                made = trial(settings, task, setting, line, settings.rates[0], 0, test=True)
                checked_method(made.config)
                assert made.config.rounds % 2 == 0
                assert made.config.evaluation.every % 2 == 0
                names.add(made.name)
                tuned = trial(settings, task, setting, line, settings.rates[0], 100, test=False)
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
        run_glue(settings, tmp_path / "out")


# -- stand-ins ----------------------------------------------------------------------------------


def big_bench(examples):
    answers = ("True", "False", "Neither")
    return {
        "canary": "...",
        "examples": [
            {"input": text, "target_scores": {a: int(a == answer) for a in answers}}
            for text, answer in examples
        ],
    }


def vitaminc(n=40):
    """Two versions of a passage under each title."""
    return big_bench(
        (f"Title {i // 2}: Passage {i} : with a colon .\nClaim: Claim {i} .", answer)
        for i, answer in zip(range(n), ("True", "False", "Neither") * n, strict=False)
    )


def epistemic(n=20):
    return {
        "examples": [
            {
                "input": f"Premise: Ann sees that {i} runs. Hypothesis: {i} runs.",
                "target_scores": {"entailment": i % 2, "non-entailment": 1 - i % 2},
            }
            for i in range(n)
        ]
    }


CONTEXT = (
    "The river flows north. It was bridged in 1850 by the St. John company. "
    "The bridge fell. A new bridge over the river was built in 1901."
)


def squad(articles=8):
    """The question's words are in the last sentence, the answer in the second."""

    def paragraphs(article):
        asked = {
            "question": f"When was bridge {article} over the river built?",
            "answers": [{"answer_start": CONTEXT.index("1850"), "text": "1850"}],
        }
        lonely = {"context": "One sentence alone, of 1850.", "qas": [asked]}
        return [{"context": CONTEXT, "qas": [asked]}, lonely]

    data = [{"title": f"River {i}", "paragraphs": paragraphs(i)} for i in range(articles)]
    return {"version": "1.1", "data": data}


CONTENTS = {"mnli": vitaminc, "rte": epistemic, "qnli": squad}


def stand_ins_directory(directory):
    for task, content in CONTENTS.items():
        file = directory / "somewhere" / STAND_INS[task].file
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content()))
    return directory


def pairs(directory, name):
    lines = (directory / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def written(tmp_path, task):
    stand_in = STAND_INS[task]
    file = stand_in.find(stand_ins_directory(tmp_path / "in"))
    return write_stand_in(stand_in, file, tmp_path / "out")


def test_vitaminc(tmp_path):
    directory = written(tmp_path, "mnli")
    train, test = pairs(directory, "train"), pairs(directory, "test")
    assert (len(train), len(test)) == (36, 4)
    claims = {pair["text_pair"]: pair for pair in train + test}
    assert claims["Claim 7 ."] == {
        "text": "Title 3: Passage 7 : with a colon .",
        "text_pair": "Claim 7 .",
        "label": "False",
    }
    titles = [{pair["text"].split(":")[0] for pair in part} for part in (train, test)]
    assert not titles[0] & titles[1]


def test_epistemic_reasoning(tmp_path):
    directory = written(tmp_path, "rte")
    found = pairs(directory, "train") + pairs(directory, "test")
    assert len(found) == 20
    assert {"text": "Ann sees that 3 runs.", "text_pair": "3 runs.", "label": "entailment"} in found


def test_qnli_is_built_of_squad(tmp_path):
    directory = written(tmp_path, "qnli")
    train, test = pairs(directory, "train"), pairs(directory, "test")
    # The paragraph of one sentence has no other sentence to pair with.
    assert (len(train), len(test)) == (14, 2)
    holding, other = test
    assert holding["label"] == "entailment"
    assert holding["text_pair"].startswith("It was bridged in 1850 by the St.")
    assert other["label"] == "not_entailment"
    assert other["text_pair"] == "A new bridge over the river was built in 1901."


@pytest.mark.parametrize("task", CONTENTS)
def test_stand_ins_are_loaded(tmp_path, task):
    directory = stand_ins_directory(tmp_path / "in")
    settings = glue(small=True, data=directory, tasks=(task,))
    (data,) = tasks_of(settings, tmp_path / "out", lambda _: None)
    raw = small.CLASSIFICATION.load(data.data, 0)
    assert len(raw.train.names) == (3 if task == "mnli" else 2)
    assert raw.train.text_pair is not None
    assert raw.test_from == "test"


@pytest.mark.parametrize(
    "content", [[], {}, {"examples": [{"input": "no mark", "target_scores": {"True": 1}}]}, 3]
)
def test_a_file_of_another_layout_is_named(tmp_path, content):
    file = tmp_path / "task.json"
    file.write_text(json.dumps(content))
    for stand_in in STAND_INS.values():
        with pytest.raises(BadInput, match=r"task\.json: "):
            write_stand_in(stand_in, file, tmp_path / "out")


def test_what_is_missing_is_said(tmp_path):
    settings = glue(small=True)
    said = []
    tasks = tasks_of(settings, tmp_path, said.append)
    assert [task.data.name for task in tasks] == ["rotten_tomatoes"]
    assert any("QQP is left out: it has no stand-in" in line for line in said)
    assert any("vitaminc_fact_verification/task.json" in line for line in said)
    assert set(left_out(settings, tasks)) == {"QNLI", "MNLI", "QQP", "RTE"}


def test_rotten_tomatoes_take_an_only_tasks_place(tmp_path):
    said = []
    (task,) = tasks_of(glue(small=True, preset="dirichlet"), tmp_path, said.append)
    assert (task.name, task.data.name) == ("mnli", "rotten_tomatoes")
    assert any("take the place of MNLI" in line for line in said)


# -- one trial ----------------------------------------------------------------------------------


WORDS = [f"w{i}" for i in range(60)]


def made_up_glue(directory, n=160):
    """SST-2 as files: the first word gives the label away."""
    rng = numpy_generator(0, "made-up")
    for name, count in (("train", n), ("validation", 40)):
        labels = rng.integers(0, 2, count).tolist()
        texts = [
            " ".join([WORDS[label], *rng.choice(WORDS, rng.integers(2, 9)).tolist()])
            for label in labels
        ]
        lines = [
            json.dumps({"sentence": text, "label": label})
            for text, label in zip(texts, labels, strict=True)
        ]
        (directory / "sst2").mkdir(parents=True, exist_ok=True)
        (directory / "sst2" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return directory


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


def overrides(directory, bert, **changes):
    data = made_up_glue(directory / "glue")
    settings = {**TINY, "model": bert, "data": data, **changes}
    return [f"{name}={value}" for name, value in settings.items()]


@pytest.fixture
def tiny(tmp_path, bert):
    """``tiny(rate=..., row=...)``: a trial of seconds."""
    data = made_up_glue(tmp_path / "glue")

    def made(column=0, row=1, rate=0.02, seed=0, test=True, **changes):
        settings = glue(**{**TINY, "model": bert, "data": data, **changes})
        (task,) = tasks_of(settings, None, lambda _: None)
        setting, line = settings_of(settings)[column], lines_of(settings)[row]
        return trial(settings, task, setting, line, rate, seed, test)

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


def test_data_and_model_are_loaded_once(tiny, monkeypatch):
    loaded = []
    load = trials.load
    monkeypatch.setattr(trials, "load", lambda config: loaded.append(config) or load(config))
    cells = Cells(tiny().config.data.path.parent / "cells")
    alternating = [
        tiny(row=row, seed=seed, column=column)
        for row in (0, 1)
        for column in (0, 1)
        for seed in (0, 1)
    ]
    found = run_trials("tries", alternating, cells, 1, QUIET)
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


# -- what is decided ----------------------------------------------------------------------------


SPREAD = (0.0, 0.01, -0.01, 0.02, -0.02)


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
            place = key(task, setting, line)
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


# -- the whole experiment -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_dir):
    directory = tmp_path_factory.mktemp("glue")
    said = StringIO()
    settings = overrides(directory, str(model_dir("bert")))
    found = run_glue(settings, directory / "out", Console(file=said, width=200))
    return settings, found, said.getvalue()


def test_what_it_leaves(finished):
    _, found, said = finished
    assert {path.name for path in found.out.iterdir()} == {
        *("cells", "report.md", "report.json", "settings.png", "settings.svg"),
        *("curves_sst2.png", "curves_sst2.svg"),
    }
    # 2 settings of 2 methods at 2 rates to tune them, then with 2 seeds.
    assert len(list((found.out / "cells").iterdir())) == 8 + 8
    page = (found.out / "report.md").read_text()
    assert "GLUE's SST-2 from a directory" in page
    assert found.claims
    for claim in found.claims:
        assert claim.text in page
        assert claim.text[:60] in said
    report = json.loads((found.out / "report.json").read_text())
    assert len(report["results"]["final"]) == 4
    line = report["results"]["final"][0]
    tuned = {
        item["rate"]: item["validation"]
        for item in report["results"]["grid"]
        if all(item[name] == line[name] for name in ("task", "setting", "line"))
    }
    assert tuned[line["rate"]] == max(tuned.values())


def test_finished_cells_are_not_run_again(finished, monkeypatch):
    settings, found, _ = finished
    before = (found.out / "report.md").read_bytes()
    monkeypatch.setattr(trials, "run_trial", None)
    again = run_glue(settings, found.out)
    assert again.claims == found.claims
    assert (found.out / "report.md").read_bytes() == before


def test_a_lost_cell_is_run_again_alone(finished, monkeypatch):
    settings, found, _ = finished
    sorted((found.out / "cells").iterdir())[0].unlink()
    ran, run_trial = [], trials.run_trial
    monkeypatch.setattr(
        trials, "run_trial", lambda trial, ready: ran.append(trial) or run_trial(trial, ready)
    )
    again = run_glue(settings, found.out)
    assert len(ran) == 1
    assert again.claims == found.claims


@pytest.mark.slow
def test_processes_give_the_same_numbers(finished, tmp_path):
    settings, found, _ = finished
    parallel = run_glue([*settings, "workers=2"], tmp_path / "out")
    assert parallel.claims == found.claims


def test_the_command_line(tmp_path, monkeypatch):
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.glue.experiment.run_glue", lambda *call: given.append(call[0]))
    arguments = ["glue", "--preset", "rank2", "--small", "rounds=4"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given == [["preset=rank2", "small=true", "rounds=4"]]
    assert "preset table1" in EXPERIMENTS["glue"].title
    with pytest.raises(BadInput, match="small: unknown key"):
        CliRunner().invoke(app, ["linear", "--small"], catch_exceptions=False)


def test_a_trials_cell_depends_on_its_data_and_test(tiny):
    one = tiny()
    assert Trial(one.name, one.config, True).settings() == one.settings()
    assert Trial(one.name, one.config, False).settings() != one.settings()
    assert tiny(max_length=15).settings() != one.settings()
