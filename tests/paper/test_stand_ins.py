"""GLUE's stand-ins: made of others' files, read as tasks, named where they are missing."""

import json

import pytest

from experiments.glue.config import GlueConfig
from experiments.glue.stand_ins import STAND_INS, write_stand_in
from experiments.glue.tasks import left_out, tasks_of
from rolora.core.errors import BadInput
from small import CLASSIFICATION


def glue(**settings):
    return GlueConfig.model_validate(settings)


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
    raw = CLASSIFICATION.load(data.data, 0)
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
