"""The command line: in this process, or in one of its own that may be killed."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress

from rolora.cli import main as cli

FORKS = multiprocessing.get_context("forkserver")
# Imports are nearly all that a short command takes, so they are made once: every command is forked
# off a process that has done nothing but these.
FORKS.set_forkserver_preload(
    ["transformers.models.bert.modeling_bert", "peft", "rolora.cli.display", "rolora.report"]
)


def rolora(*arguments):
    """Run a command; returns its exit code."""
    argv, sys.argv = sys.argv, ["rolora", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as exit_:
        return 0 if exit_.code is None else exit_.code
    finally:
        sys.argv = argv
    return 0


def start(*arguments, said=os.devnull, ignoring: Collection[signal.Signals] = ()):
    """Start a command in a process and a session of its own; returns the process.

    Args:
        arguments: what follows ``rolora``.
        said: file that its output goes to.
        ignoring: signals that it ignores from the start, as under ``nohup``.
    """
    process = FORKS.Process(target=_started, args=(arguments, os.getcwd(), said, tuple(ignoring)))
    process.start()
    return process


def _started(arguments, directory, said, ignoring):
    os.setsid()
    os.chdir(directory)
    for number in ignoring:
        signal.signal(number, signal.SIG_IGN)
    with open(said, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.exit(rolora(*arguments))


def ended(process, seconds=60):
    """The exit code of a process that `start` started, once it has ended; minus the signal's
    number if that was its end.
    """
    process.join(seconds)
    return process.exitcode


def send(process, number):
    """Send a process a signal, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
