"""Targets from files of every kind, split by the strata of the task."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest

from rolora.config import DataConfig, TaskConfig
from rolora.core.errors import BadInput
from rolora.tasks import make_task

TEXTS = [f"sentence number {i}" for i in range(80)]
SCORES = [i % 9 / 2 for i in range(80)]
LABELS = [["a", "b"], ["a"], [], ["c"]] * 20
REGRESSION = make_task(TaskConfig(name="regression", range=[0, 4]))
MULTILABEL = make_task(TaskConfig(name="multilabel"))


def config(path, label, **settings):
    return DataConfig(path=path, text="text", label=label, **settings)


def everything(raw):
    """Target by text, over all three splits."""
    parts = (raw.train, raw.validation, raw.test)
    return {
        text: target.tolist()
        for part in parts
        for text, target in zip(part.text, part.targets, strict=True)
    }


def write(path):
    frame = pd.DataFrame({"text": TEXTS, "score": SCORES, "labels": LABELS})
    if path.suffix == ".csv":
        frame.assign(labels=["|".join(labels) for labels in LABELS]).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        kinds = datasets.ClassLabel(names=["a", "b", "c"])
        features = datasets.Features(
            text=datasets.Value("string"),
            score=datasets.Value("float32"),
            labels=datasets.Sequence(kinds),
        )
        rows = {**frame.to_dict("list"), "labels": [[*map(kinds.str2int, r)] for r in LABELS]}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(path)
    return path


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.parquet", "saved"])
def test_every_format_reads_the_same(name, tmp_path):
    path = write(tmp_path / name)
    raw = REGRESSION.load(config(path, "score"), 0)
    assert everything(raw) == dict(zip(TEXTS, SCORES, strict=True))
    assert (raw.train.names, raw.train.targets.dtype) == (("score",), np.float32)
    raw = MULTILABEL.load(config(path, "labels"), 0)
    expected = [["a" in labels, "b" in labels, "c" in labels] for labels in LABELS]
    assert everything(raw) == dict(zip(TEXTS, expected, strict=True))
    assert raw.test.names == ("a", "b", "c")


def test_what_is_held_out_has_every_stratums_share(tmp_path):
    path = write(tmp_path / "d.jsonl")
    raw = MULTILABEL.load(config(path, "labels", validation=0.2, test=0.2), 0)
    assert np.bincount(raw.test.strata).tolist() == [4, 4, 4, 4]
    limited = MULTILABEL.load(config(path, "labels", limit=12), 0)
    assert np.bincount(limited.train.strata).tolist() == [3, 3, 3, 3]
    raw = REGRESSION.load(config(path, "score", validation=0.2, test=0.2), 0)
    assert set(raw.test.strata) == set(raw.train.strata)


def test_a_test_split_of_its_own_uses_the_names_and_strata_of_training(tmp_path):
    rows = [{"text": t, "labels": labels} for t, labels in zip(TEXTS, LABELS, strict=True)]
    held = [{"text": "one", "labels": ["c", "a"]}, {"text": "two", "labels": ["c"]}] * 3
    for name, split in (("train", rows), ("test", held)):
        (tmp_path / f"{name}.json").write_text(json.dumps(split))
    raw = MULTILABEL.load(config(tmp_path, "labels"), 0)
    assert raw.test_from == "test"
    assert raw.test.targets[0].tolist() == [True, False, True]
    assert raw.test.strata.tolist() == [2, 2] * 3  # here a is the rarest, in training c
    (tmp_path / "test.json").write_text(json.dumps([{"text": "x", "labels": ["d"]}]))
    with pytest.raises(BadInput, match=r"row 1 of .* label 'd', which training does not know"):
        MULTILABEL.load(config(tmp_path, "labels"), 0)


def test_hidden_scores_are_no_test_set(tmp_path):
    """STS-B's test split has -1 in place of every score."""
    for name, scores in (("train", SCORES), ("validation", SCORES), ("test", [-1.0] * 80)):
        rows = [{"text": f"{name} {t}", "score": s} for t, s in zip(TEXTS, scores, strict=True)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    assert REGRESSION.load(config(tmp_path, "score"), 0).test_from == "validation"
    with pytest.raises(BadInput, match="its examples have no labels"):
        REGRESSION.load(config(tmp_path, "score", test_split="test"), 0)


def test_labels_may_be_named_by_the_config(tmp_path):
    path = write(tmp_path / "d.csv")
    raw = MULTILABEL.load(config(path, "labels", labels=("c", "b", "a", "z")), 0)
    assert raw.train.names == ("c", "b", "a", "z")
    assert everything(raw)[TEXTS[0]] == [False, True, True, False]
    with pytest.raises(BadInput, match="label 'c', which training does not know"):
        MULTILABEL.load(config(path, "labels", labels=("a", "b")), 0)
