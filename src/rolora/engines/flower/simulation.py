"""Flower's own simulation in place of sites: Ray's actors, on the GPUs of one machine.

An actor is a process with one model, which any client's messages may reach; the clients that it
has met share the model and the examples. Ray hands Python objects from this process to its actors
by pickle, on this machine alone; nothing that a site or a config holds is unpickled.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from rolora.client.evaluation import Split
from rolora.client.replica import Replica
from rolora.client.runtime import ClientRuntime
from rolora.config import Config, parse_config
from rolora.core.errors import BadInput, RunFailed
from rolora.engines.flower import payload
from rolora.engines.flower.client_app import APP_RAISED
from rolora.engines.flower.handler import SiteHandler, SiteModel
from rolora.engines.flower.messages import pack_stale, unpack_stale
from rolora.engines.flower.serve import agreed, client_facts
from rolora.engines.flower.told import reason_of
from rolora.engines.flower.worker import Frames
from rolora.engines.preparation import Prepared, prepare

_STOP_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)


@contextmanager
def simulation(config: Config, hello: Frames) -> Iterator[Grid]:
    """Have Flower simulate the config's clients for as long as the context lasts.

    Args:
        config: of the run; `engine.workers` processes, one a core or GPU where null.
        hello: what the clients are told of the run.

    Raises:
        BadInput: the extra ``rolora[simulation]`` is not installed.
        RunFailed: Ray does not start.
    """
    if find_spec("ray") is None:
        raise BadInput(
            "engine.runtime = 'simulation': Ray is not installed; pip install 'rolora[simulation]'"
        )
    started: Queue[Grid | Exception] = Queue()
    over = threading.Event()
    server = ServerApp()

    @server.main()
    def wait(grid: Grid, context: Context) -> None:
        started.put(grid)
        over.wait()

    def simulate() -> None:
        try:
            app = client_app(config.engine.state.resolve(), hello[0].decode())
            run_simulation(server, app, config.federation.clients, backend_config=resources(config))
        except Exception as error:
            started.put(error)

    thread = threading.Thread(target=simulate, name="simulation", daemon=True)
    thread.start()
    try:
        grid = started.get()
        if isinstance(grid, Exception):
            raise RunFailed(f"Flower's simulation did not start: {grid}")
        yield grid
    finally:
        over.set()
        thread.join(_STOP_TIMEOUT_S)


def resources(config: Config) -> Any:
    """What each of the processes may use, in the words of Flower's backend."""
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    workers = config.engine.workers or gpus or cores
    share = {"num_cpus": max(1, cores // workers), "num_gpus": gpus / workers}
    return {"client_resources": share, "init_args": {"num_cpus": max(cores, workers)}}


def client_app(state: Path, hello: str) -> ClientApp:
    """The app that an actor runs: the handler of whichever client a message is for."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        try:
            frames = _handler(client, state, hello)(payload.unpack(message.content))
        except Exception as error:
            log.exception("client %s", client)
            return Message(Error(APP_RAISED, reason_of(error)), reply_to=message)
        if unpack_stale(frames) is not None:
            frames = pack_stale({})  # what it is sent may reach another actor, which holds less
        return Message(payload.pack(frames, client=client), reply_to=message)

    return app


# An actor gets messages, not objects, so what it has loaded is remembered by what it was told.


@cache
def _handler(client: int, state: Path, hello: str) -> SiteHandler:
    """The client's handler in this process, which has joined the run."""
    handler = SiteHandler(client, lambda run: _site(_loaded(hello), client), state / str(client))
    handler.join(json.loads(hello))
    return handler


@lru_cache(maxsize=1)
def _loaded(hello: str) -> Prepared:
    """Model and data of the run, once a process."""
    torch.set_num_threads(1)
    _replicas.cache_clear()
    raw = json.loads(hello)["config"]
    return prepare(parse_config({**raw, "engine": {"workers": 1, "stack": 1}}, source="the run"))


@cache
def _replicas() -> dict[int, Replica]:
    """What the process holds of the global parts, whichever client it was sent to."""
    return {}


def _site(loaded: Prepared, client: int) -> SiteModel:
    """A client's view of the process's model and data."""
    splits = {
        name: Split(examples, [loaded.shares[name][client]])
        for name, examples in loaded.examples.items()
    }
    return SiteModel(
        config=loaded.config,
        pretrained=loaded.pretrained,
        model=loaded.model,
        runtime=ClientRuntime.of(loaded.config, loaded.method, loaded.task),
        splits=splits,
        facts=client_facts(loaded.task, splits, loaded.test_from),
        agreed=agreed(loaded.config, loaded.client(client), loaded.model),
        replicas=_replicas(),
    )
