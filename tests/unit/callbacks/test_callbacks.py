"""Whoever is told of a run: in order, and never at the run's expense."""

import pytest

from rolora.callbacks import Callback, Callbacks


class Remembering(Callback):
    def __init__(self):
        self.told = []

    def round(self, record):
        self.told.append(record)

    def notice(self, text):
        self.told.append(text)

    def close(self):
        self.told.append("closed")


class Failing(Remembering):
    def round(self, record):
        raise RuntimeError("the disk\nis full")


def test_one_that_fails_is_told_no_more_and_the_others_are_told_why():
    sound, failing = Remembering(), Failing()
    told = Callbacks([failing, sound])
    for number in (1, 2):
        told.round(number)
    told.close()
    why = "Failing is told no more of this run (RuntimeError: the disk is full)"
    assert sound.told == [why, 1, 2, "closed"]
    assert failing.told == ["closed"]


def test_an_interrupt_is_not_a_failure():
    class Interrupting(Callback):
        def round(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Callbacks([Interrupting()]).round(1)
