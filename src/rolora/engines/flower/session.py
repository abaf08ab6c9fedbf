"""A run on the SuperLink whose rounds are driven by this process.

Flower would start a ServerApp in a process of its own. Here the process that submitted the run
takes up its task, so that progress, Ctrl-C, errors and exit codes are those of a local run, and a
restarted SuperLink finds its run still going.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from flwr.serverapp import Grid

from rolora.core.errors import RunFailed
from rolora.engines.flower.compat.run import driven_run, waiting_runs
from rolora.engines.flower.launch import submit_run

_ACQUIRE_TIMEOUT_S = 30.0


@contextlib.contextmanager
def flower_run(
    home: Path,
    address: str,
    authority: Path | None,
    patience_s: float = 300.0,
    outage: Callable[[str], None] = lambda text: None,
) -> Iterator[Grid]:
    """Start a run and drive it for as long as the context lasts.

    Args:
        home: Flower's directory, prepared by :func:`rolora.engines.flower.launch.prepare`.
        address: ``host:port`` of the SuperLink, which must run on this machine.
        authority: certificate of its authority; None for a SuperLink without TLS.
        patience_s: how long to wait for a SuperLink that does not answer, as while it restarts.
        outage: told of every such wait once it is over.

    Raises:
        RunFailed: the SuperLink cannot be reached, refuses the app, or is gone for longer.
    """
    certificate = authority.read_bytes() if authority else None
    token = _acquire(submit_run(home), address, certificate)

    def noted(seconds: float) -> None:
        outage(f"the server did not answer for {seconds:.1f} s")

    try:
        with driven_run(address, certificate, token, patience_s, noted) as grid:
            yield grid
    except httpx.TransportError as error:
        detail = f"has not answered for {patience_s:g} s ({error})"
        raise RunFailed(f"the SuperLink at {address} {detail}") from None


def _acquire(run: int, address: str, certificate: bytes | None) -> str:
    """Take up the run and return the token that stands for it."""
    with waiting_runs(address, certificate) as take_up:
        end = time.monotonic() + _ACQUIRE_TIMEOUT_S
        while time.monotonic() < end:
            taken = take_up()
            if taken is not None and taken[0] == run:
                return taken[1]
            time.sleep(0.05)
    raise RunFailed(f"the SuperLink did not hand out run {run}; is another process driving runs?")
