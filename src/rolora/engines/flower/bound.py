"""Programs that end when the process which started them does, however that one ended."""

from __future__ import annotations

import os
import signal
import threading

_VARIABLE = "ROLORA_BOUND_TO_STDIN"
ENVIRONMENT = {_VARIABLE: "1"}
"""What to start a program with, along with a pipe for its standard input that is left alone."""


def end_with_parent() -> None:
    """If we were started so, take the end of standard input for a SIGTERM."""
    if os.environ.get(_VARIABLE):
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1024):  # not sys.stdin, which is locked when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
