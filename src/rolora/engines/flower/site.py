"""What a site runs: the worker with its model, and a node that is kept alive in front of it."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rolora.core.errors import RunFailed
from rolora.engines.flower.compat import UNKNOWN_FLOWER
from rolora.engines.flower.launch import Service
from rolora.engines.flower.worker import Handler, Worker

_REFUSALS = {
    "[code: 2001]": "the server wants a registered key, and this site was given none",
    "[code: 2004]": "the server does not know this site's key, or takes the site for connected "
    "already",
    "Exit Code: 606": "the server runs another version of Flower",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not from the federation's "
    "authority, or not for the address given",
}
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 30.0
_STEADY_S = 60.0
_FORGIVEN = "[code: 2004]"
_FORGIVEN_S = 120.0
"""For so long a refused key is tried again: the server may still be registering keys, or take a
node that crashed for alive.
"""

log = logging.getLogger(__name__)


def serve_site(handle: Handler, start_node: Callable[[Path], Service]) -> None:
    """Serve a federation until interrupted; call it from the main thread.

    Args:
        handle: answers requests, one at a time, in this thread.
        start_node: starts a node that forwards to the worker at the given socket. It is called
            again, after a growing pause, whenever the node has ended.

    Raises:
        RunFailed: the server goes on refusing this site's key, or its certificate is not
            to be trusted.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once everything is stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Worker(handle) as worker:
        keeper = _Keeper(worker, start_node)
        keeper.start()
        try:
            worker.run()
        finally:
            keeper.stop()
    if keeper.refused:
        raise RunFailed(f"this site cannot join: {keeper.refused}")


class _Keeper(threading.Thread):
    """Keeps a node running; closes the worker when there is no use in trying again."""

    def __init__(self, worker: Worker, start_node: Callable[[Path], Service]):
        super().__init__(name="node-keeper", daemon=True)
        self._worker, self._start_node = worker, start_node
        self._stopping = threading.Event()
        self._node: Service | None = None
        self.refused = ""

    def run(self) -> None:
        pause, first = _FIRST_PAUSE_S, time.monotonic()
        while not self._stopping.is_set():
            started = time.monotonic()
            with self._start_node(self._worker.path) as self._node:
                if self._stopping.is_set():  # asked while it was starting
                    return
                self._node.process.wait()
                said = self._node.output()
            refused = _refusal(said)
            if refused and (_FORGIVEN not in said or time.monotonic() - first > _FORGIVEN_S):
                self.refused = refused
                self._worker.close()
                return
            if time.monotonic() - started > _STEADY_S:
                pause = _FIRST_PAUSE_S
            if not self._stopping.is_set():
                log.warning("%s; trying again in %g s", refused or "the node ended", pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LAST_PAUSE_S)

    def stop(self) -> None:
        self._stopping.set()
        if self._node is not None:
            self._node.stop()
        self.join()


def _refusal(said: str) -> str:
    """Why trying again is of no use, or nothing; `said` is the output of a node that has ended.

    Codes from 300 to 399 are Flower's for a node that is set up wrongly or not let in, 606 for one
    of another version than the server.
    """
    code = re.search(r"Exit Code: (3\d\d|606)\n(.*)", said)
    if code is None:
        return ""
    known = [meaning for sign, meaning in _REFUSALS.items() if sign in said]
    if known:
        return known[0]
    theirs = "" if int(code[1]) == UNKNOWN_FLOWER else f" (Flower's exit code {code[1]})"
    return code[2] + theirs
