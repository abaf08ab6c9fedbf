"""The Flower ClientApp of a site: hands the message to the site's worker, returns its answer.

Flower starts a new process for every message, so this module imports nothing heavy. The node's
config names the worker's socket (``worker-socket``) and the client's id (``partition-id``).
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from rolora.engines.flower import payload
from rolora.engines.flower.worker import WorkerError, ask

APP_RAISED = 2
"""Flower's code for an app that gave no answer."""

app = ClientApp()


@app.train()
def forward(message: Message, context: Context) -> Message:
    """Answer one message, if only with the reason why there is no answer."""
    config = context.node_config
    try:
        answer = carried(message, Path(str(config["worker-socket"])))
    except WorkerError as error:
        return Message(Error(APP_RAISED, error.reason), reply_to=message)
    return Message(payload.pack(answer, client=int(config["partition-id"])), reply_to=message)


def carried(message: Message, worker: Path) -> list[bytes]:
    """The worker's answer to a message.

    Raises:
        WorkerError: there is none; it names the reason that may be told.
    """
    try:
        request = payload.unpack(message.content)
    except ValueError as error:
        raise WorkerError("no_request", str(error)) from None
    return ask(worker, request)
