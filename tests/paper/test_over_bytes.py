"""Accuracy over bytes, of lines that send unequally much and of runs that diverge."""

import pytest
from test_preset import ending

from experiments.over_bytes import cells
from rolora.records.units import byte_size


def run(sent, scores, diverged=False):
    result = ending(scores[-1], diverged=diverged)
    return {**result, "bytes_up_by_round": sent, "accuracy": scores}


def test_lines_compare_over_what_all_of_them_sent():
    half = run([10, 20, 30], [0.5, 0.6, 0.7])
    whole = run([20, 40], [0.5, 0.9])
    assert cells([[half], [whole]], [half]) == [
        ("65", f"{byte_size(30)}, 1 of 1"),
        ("60", f"{byte_size(40)}, 1 of 1"),
    ]
    assert [cell for _, cell in cells([[half], [whole]], None)] == ["-", "-"]


def test_a_run_that_diverged_scores_chance_and_takes_nothing_from_the_others():
    sound, lost = run([10, 20, 30], [0.6, 0.7, 0.8]), run([10, 10, 10], [0.5, 0.5, 0.5], True)
    (own, _), (none, reached) = cells([[sound], [lost]], [sound])
    assert (own, none, reached) == ("70", "50", "-, 0 of 1")
    assert cells([[lost], [lost]], None) == [("-", "-")] * 2


def test_the_spread_is_over_seeds():
    lines = [[run([10, 20], [0.5, score]) for score in (0.5, 0.7)] for _ in range(2)]
    ((mean, _), _) = cells(lines, lines[0])
    assert mean.startswith("55 ±")
    assert float(mean.split("±")[1]) == pytest.approx(7.1)
