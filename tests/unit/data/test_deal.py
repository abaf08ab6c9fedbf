"""Dealing out every split: held-out rows follow the training rows, and none belongs to nobody."""

from dataclasses import replace

import pytest
import torch

import small
from rolora.core.errors import BadInput
from rolora.data.deal import deal


def split(values, seed=0):
    return replace(small.pixel_examples(len(values), seed), fields={"who": list(values)})


def by_field(train, validation, test):
    settings = small.config(
        federation={"clients": 2}, partition={"name": "field", "field": "who", "min_examples": 1}
    )
    return deal(settings, {"train": train, "validation": validation, "test": test})


def test_held_out_rows_go_to_the_client_of_their_value():
    shares = by_field(split("aabbb"), split("ab"), split("baab"))
    assert [rows.tolist() for rows in shares["test"]] == [[1, 2], [0, 3]]
    everything = torch.cat(list(shares["validation"])).sort().values
    assert everything.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("validation", "test", "words"),
    [
        ("ab", "abcc", r"2 of 4 test examples \(the first is row 3\) have the value 'c', which no"),
        ("ccc", "ab", r"3 of 3 validation examples \(the first is row 1\) have the value 'c'"),
        ("ab", "abccdef", r"2 of 7 test .* 'c'.* \(3 other values likewise\)"),
        ("ab", ["a", None], r"1 of 2 test examples \(the first is row 2\) have no value, which"),
    ],
)
def test_rows_that_would_belong_to_nobody_are_refused(validation, test, words):
    with pytest.raises(BadInput, match=r"^partition.field = 'who': .*" + words):
        by_field(split("aabbb"), split(validation), split(test))
