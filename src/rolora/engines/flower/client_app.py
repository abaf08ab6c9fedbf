"""The Flower ClientApp of a site: hands the message to the site's worker, returns its answer.

Flower starts a new process for every message, so this module imports nothing heavy. The node's
config names the worker's socket (``worker-socket``) and the client's id (``partition-id``).
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from rolora.engines.flower import payload
from rolora.engines.flower.worker import ask

app = ClientApp()


@app.train()
def forward(message: Message, context: Context) -> Message:
    """Answer one message."""
    config = context.node_config
    answer = ask(str(config["worker-socket"]), payload.unpack(message.content))
    return Message(payload.pack(answer, client=int(config["partition-id"])), reply_to=message)
