"""lm-evaluation-harness over a tiny model: tasks and data made here, nothing from the hub."""

import json
import math
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rolora.core.errors import BadInput
from rolora.records.scores import HarnessScores
from rolora.scoring.harness import (
    Asking,
    CodeEval,
    ask_each,
    compare_on_tasks,
    load_tasks,
    pass_at_k,
)
from rolora.scoring.sandbox import Limits, sandbox

tasks = pytest.importorskip("lm_eval.tasks")


CHOICE = """\
task: {name}
dataset_path: makers/questions
dataset_name: {part}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GROUP = """\
group: both
task: [even, odd]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""
CODE = """\
task: coding
dataset_path: makers/programs
unsafe_code: true
output_type: generate_until
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{test}}"
metric_list: [{metric: !function coding_utils.pass_at_1, aggregation: mean, higher_is_better: true}]
generation_kwargs: {until: ["w1"], max_gen_toks: 4, do_sample: false}
filter_list:
  - name: create_test
    filter: [{function: custom, filter_fn: !function coding_utils.candidates}]
num_fewshot: 0
"""
UTILS = """\
import evaluate

code_eval = evaluate.load("code_eval")

def pass_at_1(references, predictions):
    return code_eval.compute(references=references, predictions=predictions, k=[1])[0]["pass@1"]

def candidates(resps, docs):
    return [[doc["prompt"] for _ in resp] for resp, doc in zip(resps, docs)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Tasks, and data in the layouts that are read."""
    path = tmp_path_factory.mktemp("harness")
    for name in ("even", "odd"):
        (path / f"{name}.yaml").write_text(CHOICE.format(name=name, part=name))
        (path / "data/makers/questions" / name).mkdir(parents=True)
    (path / "both.yaml").write_text(GROUP)
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        words = [f"w{w}" for w in torch.randint(60, (6,), generator=generator).tolist()]
        question = {"question": " ".join(words[:3]), "choices": words[3:], "answer": number % 3}
        part = ("even", "odd")[number % 3 == 0]
        with (path / f"data/makers/questions/{part}/test.jsonl").open("a") as file:
            file.write(json.dumps(question) + "\n")
    (path / "coding.yaml").write_text(CODE)
    (path / "coding_utils.py").write_text(UTILS)
    (path / "data/makers/programs").mkdir()
    programs = ["def f(): return 1", "def f(): return 2", "import os; os._exit(0)"]
    lines = [json.dumps({"prompt": p, "test": "assert f() == 1"}) for p in programs]
    (path / "data/makers/programs/test.jsonl").write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def model(llama):
    base = AutoModelForCausalLM.from_pretrained(llama)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=8,
            lora_alpha=64,
            target_modules=["q_proj", "v_proj", "o_proj"],
            init_lora_weights=False,
        )
        return get_peft_model(base, lora).eval(), AutoTokenizer.from_pretrained(llama)


def ask(model, place, *names, box=None, **options):
    tasks = tuple(str(place / f"{name}.yaml") for name in names)
    return compare_on_tasks(*model, Asking(tasks, place / "data", **options), box)


def test_base_and_adapter_are_asked_the_same_questions(model, place):
    (score,) = ask(model, place, "even")
    peft_model, tokenizer = model
    lines = (place / "data/makers/questions/even/test.jsonl").read_text().splitlines()
    docs = list(map(json.loads, lines))
    with peft_model.disable_adapter():
        base = [right(peft_model, tokenizer, doc) for doc in docs]
    adapter = [right(peft_model, tokenizer, doc) for doc in docs]
    assert base != adapter
    assert score.questions == len(docs)
    assert (score.base, score.adapter) == pytest.approx((sum(base) / 40, sum(adapter) / 40))
    differences = torch.tensor(adapter).double() - torch.tensor(base).double()
    assert score.difference == pytest.approx(float(differences.mean()))
    assert score.difference_stderr == pytest.approx(float(differences.std()) / math.sqrt(40))
    low, high = score.interval
    assert high - low == pytest.approx(2 * 1.96 * score.difference_stderr, rel=1e-3)
    assert score.base_stderr == pytest.approx(float(torch.tensor(base).double().std()) / 40**0.5)


def test_one_model_is_asked_question_by_question(model, place):
    peft_model, tokenizer = model
    asking = Asking((str(place / "even.yaml"),), place / "data")
    lines = (place / "data/makers/questions/even/test.jsonl").read_text().splitlines()
    wanted = [float(right(peft_model, tokenizer, json.loads(line))) for line in lines]
    assert ask_each(peft_model, tokenizer, asking, "acc") == {"even": wanted}
    with pytest.raises(BadInput, match="even: has no pass@1"):
        ask_each(peft_model, tokenizer, asking, "pass@1")


def right(model, tokenizer, doc):
    """Whether the answer is the likeliest choice, by Transformers alone."""
    scores = []
    for choice in doc["choices"]:
        ids = tokenizer(f"{doc['question']} {choice}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0, -2].log_softmax(-1)
        scores.append(float(logits[ids[0, -1]]))
    return float(scores.index(max(scores)) == doc["answer"])


def test_a_group_counts_its_questions_alike(model, place, monkeypatch):
    ours = partial(tasks.TaskManager, include_path=str(place), include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", lambda **_: ours())
    whole, *parts = compare_on_tasks(*model, Asking(("both",), place / "data", limit=15))
    assert [part.within for part in parts] == ["both", "both"]
    assert (whole.within, whole.questions, whole.limit) == (None, 30, 15)
    assert whole.adapter == pytest.approx(sum(part.adapter for part in parts) / 2)
    by_part = sum(part.difference_stderr**2 for part in parts) ** 0.5 / 2
    assert whole.difference_stderr == pytest.approx(by_part, rel=1e-6)


def test_generated_code_is_refused_and_then_run_in_the_box(model, place):
    with pytest.raises(BadInput, match=r"coding.*--allow-code"):
        ask(model, place, "coding")
    for isolated in (True, False):  # the second box, too: the task's module is kept by Python
        with sandbox(Limits(seconds=3), unconfined=not isolated) as box:
            (score,) = ask(model, place, "coding", box=box)
        assert (score.base, score.adapter) == pytest.approx((1 / 3, 1 / 3))
        assert score.code == box.isolation
    with pytest.raises(BadInput, match="--allow-code"):
        ask(model, place, "coding")


def test_a_task_that_runs_code_by_itself_is_refused(place):
    text = (place / "coding.yaml").read_text()
    own = text.replace("!function coding_utils.pass_at_1", "exact_match")
    (place / "own.yaml").write_text(own.replace("task: coding", "task: own"))
    with sandbox(unconfined=True) as box, pytest.raises(BadInput, match="by itself"):
        load_tasks(Asking((str(place / "own.yaml"),), place / "data"), box)


def test_what_cannot_be_asked(model, place, tmp_path):
    with pytest.raises(BadInput, match=r"--data .*makers/questions \(even\).*SPLIT\.jsonl"):
        compare_on_tasks(*model, Asking((str(place / "even.yaml"),), tmp_path))
    with pytest.raises(BadInput, match=r"cannot be loaded.*--data"):
        compare_on_tasks(*model, Asking((str(place / "even.yaml"),)))
    long = (place / "coding.yaml").read_text().replace("max_gen_toks: 4", "max_gen_toks: 400")
    (place / "long.yaml").write_text(long)
    with sandbox(unconfined=True) as box, pytest.raises(BadInput, match="cannot be asked"):
        ask(model, place, "long", box=box)


def test_later_scores_replace_those_of_the_same_task(model, place):
    first, again = (ask(model, place, "even", limit=n) for n in (4, 5))
    other = ask(model, place, "odd", limit=4)
    kept = HarnessScores().with_later(first).with_later(other).with_later(again)
    assert [(s.task, s.limit) for s in kept.scores] == [("odd", 4), ("even", 5)]
    assert HarnessScores.model_validate_json(kept.model_dump_json()) == kept


def test_pass_at_k():
    assert pass_at_k(5, 0, 2) == 0
    assert pass_at_k(5, 5, 2) == 1
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    with sandbox(Limits(seconds=3), unconfined=True) as box:
        programs = [["x = 1", "x = 2"], ["x = 2", "x = 2"]]
        scores, outcomes = CodeEval(box).compute(["assert x == 1"] * 2, programs, k=[1, 2, 5])
    assert scores == {"pass@1": pytest.approx(0.25), "pass@2": pytest.approx(0.5)}
    assert [ok["passed"] for _, ok in outcomes[0]] == [True, False]
