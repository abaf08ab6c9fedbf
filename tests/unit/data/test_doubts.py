"""What is doubtful in the data is said once, in numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import small
from rolora.data import RawSplit, tell_cut, tell_lacking, tell_shares, tokenize
from rolora.data.deal import deal
from task_cases import task


def raw_split(texts, pairs=None):
    labels = np.zeros(len(texts), dtype=np.int64)
    return RawSplit(list(texts), pairs, labels, labels, ("a", "b"))


class Slow:
    """A tokenizer that, as a slow one, does not say what it cut."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **options):
        encoded = self.tokenizer(*args, **options)
        encoded._encodings = None
        return encoded


@pytest.mark.parametrize("kind", [lambda tokenizer: tokenizer, Slow])
def test_texts_that_were_cut_are_counted(kind):
    tokenizer = kind(small.tokenizer())
    words = ["w1 w2 w3", "w1 w2 w3 w4", "w1", "w1 w2 w3 w4 w5 w6"]  # and two special tokens
    assert tokenize(raw_split(words), tokenizer, 5).cut == 2
    assert tokenize(raw_split(words), tokenizer, 8).cut == 0
    pairs = ["w1", "w1", "w1", "w1"]  # and three
    assert tokenize(raw_split(words, pairs), tokenizer, 7).cut == 2
    assert tokenize(raw_split(words * 600), tokenizer, 5).cut == 1200  # more than one batch


def test_what_was_cut_is_said_by_split():
    said, part = [], small.text_examples(7)
    splits = {"train": replace(part, cut=3), "validation": part, "test": replace(part, cut=1)}
    tell_cut(splits, 128, said.append)
    tell_cut({"train": part}, 128, said.append)
    assert said == [
        "data.max_length = 128: 3 of 7 training and 1 of 7 test texts are longer than 128 tokens "
        "and were cut"
    ]


def test_labels_that_a_split_lacks_are_named():
    said = []
    tell_lacking("test", [3, 0, 1], ["a", "b", "c"], said.append)
    tell_lacking("test", [0, 0, 1], ["a", "b", "c"], said.append)
    tell_lacking("test", [0] * 7 + [1], [*"abcdefgh"], said.append)
    tell_lacking("test", [1, 1], ["a", "b"], said.append)
    tell_lacking("test", [], [], said.append)
    assert said == [
        "data: no test example has the label 'b'",
        "data: of 3 labels no test example has 2: 'a', 'b'",
        "data: of 8 labels no test example has 7: 'a', 'b', 'c', 'd', 'e', ...",
    ]


@pytest.mark.parametrize(
    ("name", "targets", "counts"),
    [("classification", [0, 2, 2], [1, 0, 2]), ("multilabel", [[1, 0, 0], [1, 0, 1]], [2, 0, 1])],
)
def test_a_task_knows_how_many_examples_have_each_label(name, targets, counts):
    targets = torch.tensor(targets)
    targets = targets.bool() if name == "multilabel" else targets
    assert task(name).support(targets, ("a", "b", "c")) == (counts, ("a", "b", "c"))


def told(settings, examples):
    said = []
    tell_shares(settings, examples, deal(settings, examples), said.append)
    return said


def split(values, seed=0):
    return replace(small.pixel_examples(len(values), seed), fields={"who": list(values)})


def test_clients_without_examples_are_counted():
    partition = {"name": "field", "field": "who", "min_examples": 1}
    settings = small.config(federation={"clients": 2}, partition=partition)
    whole = {"train": split("aabb"), "validation": split("ab"), "test": split("ab")}
    assert told(settings, whole) == []
    some = {"train": split("aabb"), "validation": split("ab"), "test": split("bb")}
    assert told(settings, some) == ["partition: 1 of 2 clients have no test examples"]


def test_examples_of_nobody_are_counted():
    settings, part = small.config(federation={"clients": 2}), small.pixel_examples(5)
    shares = {"test": [torch.tensor([0, 3]), torch.tensor([1])]}
    said = []
    tell_shares(settings, {"test": part}, shares, said.append)
    assert said == ["partition: 2 of 5 test examples belong to no client and are left out"]


def test_merged_values_are_counted():
    partition = {"name": "field", "field": "who", "min_examples": 1}
    settings, said = small.config(federation={"clients": 2}, partition=partition), []
    shares = {"train": [torch.tensor([0, 1]), torch.tensor([2])]}
    tell_shares(settings, {"train": split("abc")}, shares, said.append)
    assert said == [
        "partition.field = 'who': its 3 values were merged into 2 clients, of which some hold "
        "several"
    ]
