"""Topics found in prompts: the clusters that were put there, the same every time."""

import json
import random
import sys

import numpy as np
import pytest

import small
from rolora.config import DataConfig, TaskConfig
from rolora.core.errors import BadInput
from rolora.tasks import make_task

SUBJECTS = {
    "kitchen": ["bake", "oven", "bread", "butter", "recipe", "stir", "flour", "spoon"],
    "court": ["judge", "appeal", "verdict", "lawyer", "statute", "clause", "trial", "witness"],
    "sea": ["sail", "harbour", "anchor", "tide", "wave", "captain", "deck", "mast"],
}
BY_TOPIC = TaskConfig(name="causal_lm", strata="topic", topics=3)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Instructions about one subject each; the column ``about`` says which, as an oracle."""
    drawn, path = random.Random(0), tmp_path_factory.mktemp("topics") / "records.jsonl"
    sizes = {"kitchen": 120, "court": 80, "sea": 40}
    names = drawn.sample([n for n, size in sizes.items() for _ in range(size)], 240)
    rows = [
        {"instruction": " ".join(["Please", *drawn.sample(SUBJECTS[name], 6)]), "output": "w1 w2"}
        | {"about": name}
        for name in names
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def load(records, task=BY_TOPIC, seed=0):
    return make_task(task).load(DataConfig(path=records), seed)


def test_the_clusters_are_the_subjects_in_every_split_named_by_their_words(records):
    raw = load(records)
    assert len(raw.train.names) == 3
    for split in raw.by_name.values():
        found = dict(zip(split.strata.tolist(), split.fields["about"], strict=True))
        assert found == {0: "kitchen", 1: "court", 2: "sea"}  # the largest first
        assert [found[k] for k in split.strata.tolist()] == split.fields["about"]
        assert split.names == raw.train.names
    for name, words in zip(raw.train.names, SUBJECTS.values(), strict=True):
        assert set(name.split(", ")) <= set(words)
    assert all(len(set(name.split(", "))) == 3 for name in raw.train.names)


def test_held_out_prompts_change_no_topic(records, tmp_path):
    """What is fitted is a function of the training rows alone."""
    raw = load(records)
    held = {row[0].content for s in (raw.validation, raw.test) for row in s.dialogues}
    other = tmp_path / "other.jsonl"
    with other.open("w") as file:
        for number, line in enumerate(records.read_text().splitlines(), 1):
            row = json.loads(line)
            if row["instruction"] in held:  # the same row is held out again, with other words
                row["instruction"] = "anchor tide wave " * number
            file.write(json.dumps(row) + "\n")
    again = load(other)
    assert again.train.dialogues == raw.train.dialogues
    assert again.train.names == raw.train.names
    assert np.array_equal(again.train.strata, raw.train.strata)
    assert not np.array_equal(again.test.strata, raw.test.strata)


def test_topics_are_a_function_of_the_seed_whatever_the_threads(records, monkeypatch):
    from threadpoolctl import threadpool_limits

    task = TaskConfig(name="causal_lm", strata="topic", topics=7)  # more than there are
    found = []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            raw = load(records, task)
        found.append([raw.train.names, *(s.strata.tolist() for s in raw.by_name.values())])
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 7


def test_a_column_called_topic_is_taken(tmp_path, records):
    path = tmp_path / "named.jsonl"
    path.write_text(records.read_text().replace('"about"', '"topic"'))
    raw = load(path, TaskConfig(name="causal_lm", strata="topic"))
    assert raw.train.names == ("court", "kitchen", "sea")


def test_examples_keep_their_topics_which_a_site_by_itself_cannot_find(records):
    task, raw = make_task(BY_TOPIC), load(records)
    examples = task.tokens(raw.train, small.word_tokenizer(), 64)
    assert examples.strata.tolist() == raw.train.strata.tolist()
    assert task.strata_names(examples.names) == raw.train.names
    with pytest.raises(BadInput, match=r"task\.strata = 'topic': .* no site of a federation sees"):
        task.check_own(examples)
    make_task(TaskConfig(name="causal_lm")).check_own(examples)


@pytest.mark.parametrize(
    ("words", "topics", "message"),
    [
        (
            ["bake bread", "sail away", "judge", "appeal"],
            5,
            r"task\.topics = 5: there are 2 different prompts",
        ),
        (["the", "of and", "a to", "is"], 2, "the prompts hold no words to go by"),
    ],
)
def test_too_few_prompts_or_words_are_refused(tmp_path, words, topics, message):
    path = tmp_path / "d.jsonl"
    rows = [{"prompt": words[i % len(words)], "completion": f"w{i}"} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = TaskConfig(name="causal_lm", strata="topic", topics=topics)
    with pytest.raises(BadInput, match=message):
        load(path, task)


def test_topics_without_strata_topic_and_without_scikit_learn_are_refused(records, monkeypatch):
    with pytest.raises(BadInput, match=r"topics = 4 .* set strata to 'topic'"):
        make_task(TaskConfig(name="causal_lm", topics=4))
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(BadInput, match=r"pip install 'rolora\[topics\]'"):
        load(records)
