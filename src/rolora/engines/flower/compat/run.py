"""To drive a run without a ServerApp process of Flower's: its Runtime API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from flwr.serverapp import Grid

from rolora.engines.flower.compat import known_flower

with known_flower():
    from flwr.common.constant import SubStatus
    from flwr.common.serde import run_from_proto
    from flwr.proto.runtime_pb2 import (
        AcquireTaskRequest,
        PullTaskInputRequest,
        PushTaskOutputRequest,
    )
    from flwr.supercore.constant import TaskType
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid


@contextlib.contextmanager
def waiting_runs(
    address: str, certificate: bytes | None
) -> Iterator[Callable[[], tuple[int, str] | None]]:
    """A function that takes up one run which waits at the SuperLink for its ServerApp, and returns
    its id and the token that stands for it, or None where none waits.

    Args:
        address: ``host:port`` of the SuperLink, which must run on this machine.
        certificate: of its authority; None for a SuperLink without TLS.
    """
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    with RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=certificate is None,
        root_certificates=certificate,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    ) as client:

        def take_up() -> tuple[int, str] | None:
            acquired = client.AcquireTask(request)
            if not acquired.HasField("task"):
                return None
            return acquired.task.run_id, str(acquired.token)

        yield take_up


@contextlib.contextmanager
def driven_run(
    address: str,
    certificate: bytes | None,
    token: str,
    patience_s: float,
    outage: Callable[[float], None],
) -> Iterator[Grid]:
    """Drive a run that was taken up, with heartbeats, for as long as the context lasts; how it ends
    is how the run ends.

    Args:
        address: as for :func:`waiting_runs`, and so is `certificate`.
        certificate: of the SuperLink's authority.
        token: of the run.
        patience_s: for how long a request is repeated while the SuperLink does not answer.
        outage: told the seconds for which it did not answer, once it does.

    Raises:
        httpx.TransportError: it did not answer for longer.
    """
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
    finally:
        grid._retry_invoker.max_tries = 1
        with contextlib.suppress(httpx.HTTPError):
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=outcome, details=""))
            heartbeat.stop()
            grid.close()


def _noted(then: Callable[[Any], None], outage: Callable[[float], None]) -> Callable[[Any], None]:
    """What the retry invoker is to do after a request that came through, perhaps at last."""

    def on_success(state: Any) -> None:
        if state.tries > 1:
            outage(state.elapsed_time)
        then(state)

    return on_success
