"""The experiments with generating models: what is run and asked, what is told, each one's way."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace

import pytest
from invented import run, says_all, settings

import experiments.code.records
import experiments.commonsense.experiment
from experiments.alpaca.experiment import AlpacaConfig
from experiments.code.experiment import CodeConfig
from experiments.code.records import functions
from experiments.commonsense.experiment import CommonsenseConfig
from experiments.commonsense.records import STAND_INS, letters_in, write_stand_ins
from experiments.generation.config import LINES, GenerationConfig, run_of
from experiments.generation.report import (
    against_rolora,
    at_equal_bytes,
    claims,
    summary,
    tables,
    with_interval,
)
from experiments.generation.runs import Found, LineRuns, Outcome
from experiments.generation.training import LanguageTrial
from rolora.config import DataConfig, load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.data.choices import CHOICES

# -- what is run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "data", "preset"),
    [
        (AlpacaConfig, "alpaca", "alpaca"),
        (CodeConfig, "code_alpaca", "code"),
        (CommonsenseConfig, "boolq", "commonsense"),
    ],
)
def test_at_the_papers_size_a_run_is_the_shipped_preset(config, data, preset):
    whole = config()
    records = whole.records(name=data)
    ours = run_of(whole, whole.subjects[0], records, "rolora", 1e-3, 0, True)
    theirs = load_config(preset)
    assert ours.evaluation.every == theirs.evaluation.every
    assert (ours.task.name, ours.task.options["template"]) == ("causal_lm", "plain")
    named = {"rounds", "model", "lora", "data", "partition", "method", "optimizer"}
    assert ours.model_dump(include=named) == theirs.model_dump(include=named)
    assert ours.federation.clients == theirs.federation.clients


def test_the_recommended_line_is_the_preset_gauge():
    config, preset = AlpacaConfig(small=True), load_config("gauge")
    ours = run_of(
        config, config.subjects[0], config.records(name="x"), "recommended", 1e-3, 0, True
    )
    assert ours.method == preset.method
    assert ours.optimizer.state == preset.optimizer.state


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("methods=[fedit]", "methods"),
        ("methods=[rolora,scaffold]", "methods"),
        ("scored_seeds=[7]", "scored_seeds"),
        ("tuning_seed=0", "tuning_seed"),
        ("rounds=3", "rounds"),
    ],
)
def test_settings_that_would_not_be_fair_are_refused(override, named):
    with pytest.raises(BadInput, match=named):
        parse_overrides(GenerationConfig, [override], "alpaca")


def test_gemma_is_a_second_model_with_seeds_of_its_own():
    config = parse_overrides(AlpacaConfig, ["small=true", "gemma=/some/file.gguf"], "alpaca")
    assert [subject.title for subject in config.subjects] == ["smollm2", "gemma-3-270m"]
    assert config.subjects[1].seeds == (0,)
    assert config.subjects[1].layers == "12-17"  # it has 18


def test_a_trial_is_the_same_wherever_its_files_lie(tmp_path):
    config = AlpacaConfig(small=True)
    subject = config.subjects[0]

    def settings_at(place, model):
        moved, data = replace(subject, name=model), config.records(path=place)
        one = run_of(config, moved, data, "rolora", 1e-3, 0, True)
        return LanguageTrial("a", one, True, subject.title, "digest").settings()

    assert settings_at(tmp_path, "here") == settings_at(tmp_path / "there", "elsewhere")


# -- records ------------------------------------------------------------------------------------

SOURCE = '''
class Some:
    def method(self, count):
        """Say it so often."""
        if count < 0:
            raise ValueError("a negative count")
        return [self] * count

    def one_line(self): """Nothing."""; return self.method(1) + self.method(2) + self.method(3)

    def bare(self, count):
        return [self] * count + [self] * count + [self] * count

def short():
    """It."""
    return 1
'''


def test_functions_of_the_library_are_head_and_body(tmp_path):
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "two.py").write_text(SOURCE)  # the same prompts once
    (tmp_path / "bad.py").write_text("def f(:")
    (record,) = functions(sorted(tmp_path.glob("*.py")))
    assert record["prompt"] == 'def method(self, count):\n    """Say it so often."""\n'
    assert record["completion"].splitlines()[-1] == "    return [self] * count"
    compile(record["prompt"] + record["completion"], "record", "exec")


def bigbench(n):
    """Tasks in BIG-bench's format, in which the first option is always right."""
    examples = [
        {"input": f"w{i} w{i % 7}", "target_scores": {f"yes {i}": 1, f"no {i}": 0}}
        for i in range(n)
    ]
    two_right = {"input": "w1", "target_scores": {"a": 1, "b": 1}}
    return {name: {"examples": [*examples, examples[0], two_right]} for name in STAND_INS}


def test_stand_ins_are_asked_once_in_arcs_columns_and_an_order_of_their_own(tmp_path):
    write_stand_ins(tmp_path, bigbench(50), 30, 10)
    splits = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    ]
    assert [len(rows) for rows in splits] == [8 * 30, 8 * 10]
    questions = [{(row["task"], row["question"]) for row in rows} for rows in splits]
    assert [len(each) for each in questions] == [8 * 30, 8 * 10]
    assert not questions[0] & questions[1]
    assert {row["answerKey"] for row in splits[0]} == {"A", "B"}
    for row in splits[0]:
        right = row["choices"]["text"]["AB".index(row["answerKey"])]
        assert right.startswith("yes")
        asked, answer = CHOICES["arc_easy"].dialogue(row)
        assert letters_in(asked.content) == ["A", "B"]
        assert answer.content == row["answerKey"]


def test_letters_in_a_question_that_itself_begins_with_one():
    assert letters_in("A. Smith left.\n\nA. yes\nB. no\nC. perhaps\n\nAnswer") == ["A", "B", "C"]


# -- what is told -------------------------------------------------------------------------------


def ending(loss):
    return {
        "rounds": [2, 4],
        "loss": [loss + 0.1, loss],
        "bytes_up_by_round": [10, 20],
        "test_loss": loss if math.isfinite(loss) else None,
        "client_loss": None,
        "diverged": not math.isfinite(loss),
        "bytes_up": 20,
        "bytes_down": 20,
        "seconds": 1.0,
    }


def planted(**losses):
    """Finished lines, by the mean of their test losses; five seeds."""
    spread = (0.0, 0.01, -0.01, 0.02, -0.02)
    lines = {
        line: LineRuns(1e-3, {}, {n: ending(mean + s * (1 + k / 10)) for n, s in enumerate(spread)})
        for k, (line, mean) in enumerate(losses.items())
    }
    base = {n: {"validation_loss": 2.0 + s, "test_loss": 2.0 - s} for n, s in enumerate(spread)}
    config = AlpacaConfig(small=True, seeds=(0, 1, 2, 3, 4))
    found = Found(config.subjects[0], None, base, None, {}, lines, ["FedIT, seed 9"])
    return Outcome(STUDY, config, [found])


STUDY = type("Study", (), {"source": "the paper", "words": staticmethod(lambda config: "Words.")})


def test_the_lowest_loss_holds_and_a_lower_one_refutes():
    found = {c.text: c for c in claims(planted(rolora=1.0, ffa_lora=1.2, fedit=0.8))}
    say = "smollm2: RoLoRA ends with a lower test loss than"
    assert found[f"{say} FFA-LoRA"].standing == "holds"
    assert found[f"{say} LoRA (FedAvg)"].standing == "does not hold"
    assert "after Holm" in found[f"{say} FFA-LoRA"].evidence
    assert found["smollm2: RoLoRA ends with a lower test loss than the base model"].standing == (
        "holds"
    )


def test_equal_bytes_are_those_of_the_more_frugal_line():
    outcome = planted(rolora=1.0, fedit=0.9)
    (found,) = outcome.found
    for each in found.lines["fedit"].final.values():
        each["bytes_up_by_round"], each["bytes_up"] = [20, 40], 40
    (same,) = at_equal_bytes(found).values()
    assert same.sent == 20
    assert same.ours[0] == pytest.approx(1.0)
    assert same.theirs[0] == pytest.approx(1.0)  # after half of its rounds
    for each in found.lines["fedit"].final.values():
        each["bytes_up_by_round"], each["bytes_up"] = [40, 80], 80
    (same,) = at_equal_bytes(found).values()
    assert same.theirs[0] == pytest.approx((2.0 + 1.0) / 2)  # between the base model and its half
    claim = next(c for c in claims(outcome) if "equal bytes" in c.text)
    assert claim.standing == "holds"


def test_a_line_that_diverged_is_named_and_decides_nothing():
    outcome = planted(rolora=1.0, flexlora=math.inf)
    assert against_rolora(outcome.found[0])["flexlora"] == (None, None)
    table, same, *_ = tables(outcome)
    assert "diverged in 5 of 5" in same.rows[0]
    assert "diverged in 5 of 5" in table.rows[2]
    assert "FedIT, seed 9" in summary(outcome)


def test_an_interval_over_questions():
    mean, half = with_interval([0.0, 1.0] * 50)
    assert mean == 0.5
    assert half == pytest.approx(1.96 * math.sqrt(0.25 / 99), rel=1e-3)


# -- each one's whole way -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path, drawn = tmp_path_factory.mktemp("records") / "records.jsonl", random.Random(0)
    with path.open("w") as file:
        for _ in range(120):
            k = drawn.randrange(4)
            words = [f"w{drawn.randrange(20, 60)}" for _ in range(drawn.randrange(1, 9))]
            row = {"instruction": " ".join([*words, f"w{k}"]), "output": f"w{k + 10} " * (1 + k)}
            file.write(json.dumps(row) + "\n")
    return path


def small(llama, **more):
    chosen = {"small": "true", "model": llama, "layers": "all", "max_length": 64, "clients": 2}
    chosen |= {"rounds": 2, "local_steps": 1, "rates": "[0.01]", "seeds": "[0,1]", "workers": 1}
    chosen |= {"dtype": "float32", "template": "plain", "answer_tokens": 4, "generations": 1}
    return settings(**{**chosen, "methods": "[rolora,recommended]", **more})


def test_alpaca_runs_and_goes_on_where_it_was(llama, records, tmp_path):
    asked = small(llama, data=records, questions=0, methods=f"[{','.join(LINES)}]")
    first = run("alpaca", asked, tmp_path / "out")
    says_all(first)
    cells = first.cells()
    assert len(cells) == 5 * 2 + 2 + (5 + 1)  # one rate needs no choice
    result = first.record()["results"]["models"][0]
    assert set(result["lines"]) == set(LINES)
    assert len(list((tmp_path / "out" / "adapters").iterdir())) == 10
    for line in result["lines"].values():
        for one in line["seeds"].values():
            assert one["rounds"] == [1, 2]
            assert math.isfinite(one["test_loss"])
    assert {"loss.png", "loss.svg", "report.md", "report.json"} <= first.files().keys()
    shutil.rmtree(tmp_path / "out" / "adapters")
    again = first.again(None, "finished=true")
    assert again.cells() == cells
    assert again.record()["results"] == first.record()["results"]
    next((tmp_path / "out" / "cells").glob("answers*rolora*.json")).unlink()
    with pytest.raises(BadInput, match=r"is not there, though its run is finished; delete cells/"):
        first.again()


def test_commonsense_is_answered_by_letters(llama, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(experiments.commonsense.experiment, "archive", lambda: None)
    monkeypatch.setattr(
        experiments.commonsense.experiment, "bigbench_tasks", lambda path: bigbench(30)
    )
    asked = small(llama, train_rows=12, test_rows=4, seeds="[0]", questions=4, generations=0)
    done = run("commonsense", [*asked, "rates=[0.001,0.01]"], tmp_path / "out")
    line = done.record()["results"]["models"][0]["lines"]["rolora"]
    assert line["rate"] == float(min(line["tuning"], key=line["tuning"].get))
    scores = done.record()["results"]["models"][0]
    assert set(scores["base_scores"]) == set(STAND_INS)
    for line in scores["lines"].values():
        assert {len(each) for each in line["scores"]["0"].values()} == {4}
    assert "32 questions" in done.page()
    assert "social_iqa (4)" in done.page()
    assert "scores.svg" in done.files()


def test_code_is_tested_on_the_canonical_solutions(llama, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    (tmp_path / "lib").mkdir()
    for i in range(40):
        text = SOURCE.replace("Say it so often", f"Say w{i} w{i} so often")
        (tmp_path / "lib" / f"m{i:02}.py").write_text(text.replace("count < 0", "w1 in w2 or w3"))
    found = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f"w{i} w1 ",
            "canonical_solution": "w2 w3 w4",
            "entry_point": "f",
            "test": "def check(f): pass",
        }
        for i in range(6)
    ]
    files = sorted((tmp_path / "lib").glob("*.py"))
    monkeypatch.setattr(experiments.code.records, "library_files", lambda: files)
    monkeypatch.setattr(experiments.code.records, "problems", lambda: found)
    asked = small(llama, seeds="[0]", limit=20, generations=0, questions=2, program_tokens=4)
    done = run("code", asked, tmp_path / "out")
    result = done.record()["results"]["models"][0]
    assert result["base_scores"] == {"humaneval": "00"}  # words are no programs
    assert "HumanEval, pass@1 within 4 tokens, 2 questions" in done.page()
    assert result["base"]["0"]["test_loss"] == pytest.approx(
        result["lines"]["rolora"]["seeds"]["0"]["test_loss"], abs=1.0
    )
    held = (tmp_path / "out" / "data" / "records" / "test.jsonl").read_text().splitlines()
    assert len(held) == 6
    assert "a stand-in" in done.page()
    assert "6 solutions" in done.said


def test_data_settings_are_those_of_the_config():
    assert CodeConfig(small=True, limit=5).records(name="x") == DataConfig(
        name="x", max_length=256, limit=5, validation=0.015
    )
