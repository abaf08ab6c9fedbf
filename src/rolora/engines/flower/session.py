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
from typing import Any

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from rolora.core.errors import RunFailed
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
    grid = HttpGrid(address, certificate is None, certificate, token=token)
    grid._retry_invoker.max_time = patience_s
    grid._retry_invoker.on_success = _noted(grid._retry_invoker.on_success, outage)
    client = grid._runtime_client
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    outcome = SubStatus.FAILED
    try:
        task = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run_from_proto(task.run))
        yield grid
        outcome = SubStatus.COMPLETED
    except KeyboardInterrupt:
        outcome = SubStatus.STOPPED
        raise
    except httpx.TransportError as error:
        detail = f"has not answered for {patience_s:g} s ({error})"
        raise RunFailed(f"the SuperLink at {address} {detail}") from None
    finally:
        grid._retry_invoker.max_tries = 1
        with contextlib.suppress(httpx.HTTPError):
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=""))
            heartbeat.stop()
            grid.close()


def _noted(then: Callable[[Any], None], outage: Callable[[str], None]) -> Callable[[Any], None]:
    """What the retry invoker is to do after a request that came through, perhaps at last."""

    def on_success(state: Any) -> None:
        if state.tries > 1:
            outage(f"the server did not answer for {state.elapsed_time:.1f} s")
        then(state)

    return on_success


def _acquire(run: int, address: str, certificate: bytes | None) -> str:
    """Take up the run's task and return the token that stands for it."""
    with RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    ) as client:
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        end = time.monotonic() + _ACQUIRE_TIMEOUT_S
        while time.monotonic() < end:
            acquired = client.AcquireTask(request)
            if acquired.HasField("task") and acquired.task.run_id == run:
                return str(acquired.token)
            time.sleep(0.05)
    raise RunFailed(f"the SuperLink did not hand out run {run}; is another process driving runs?")
