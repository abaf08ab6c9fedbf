"""Signals to end: one exception, held back while files change; the handlers are put back."""

import os
import signal
import threading

import pytest

from rolora.records.shield import ENDING, Interrupted, interruptible, shielded


def handlers():
    return [signal.getsignal(number) for number in ENDING]


@pytest.fixture(autouse=True)
def _restored():
    before = handlers()
    yield
    assert handlers() == before


def send(number):
    os.kill(os.getpid(), number)
    signal.getsignal(number)  # a chance for Python to run the handler


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_each_signal_is_one_exception_with_its_exit_code(number, code):
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        send(number)
    assert caught.type is Interrupted
    assert caught.value.exit_code == code


def test_what_follows_the_first_does_not_disturb_the_end():
    ended = False
    with interruptible():
        try:
            send(signal.SIGINT)
        except Interrupted:
            for number in (*ENDING, *ENDING):
                send(number)
            ended = True
    assert ended


def write_while(done, *numbers):
    """Write under a shield while signals come."""
    with shielded():
        for number in numbers:
            send(number)
        done.append("written")
    done.append("never")


def test_signals_wait_for_the_end_of_a_shielded_block():
    done = []
    with pytest.raises(Interrupted) as caught, interruptible():
        write_while(done, signal.SIGTERM, signal.SIGINT)
    assert done == ["written"]
    assert caught.value.exit_code == 143


def test_without_interruptible_a_shield_holds_ctrl_c_back_too():
    done = []
    with pytest.raises(KeyboardInterrupt):
        write_while(done, signal.SIGINT)
    assert done == ["written"]


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(), shielded():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone():
    def inside():
        with interruptible(), shielded():
            seen.extend(handlers())

    seen, before = [], handlers()
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == before
