"""Opaque frames in a Flower message, and out of it."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from rolora.engines.flower.worker import Frames


def pack(frames: Frames, client: int | None = None) -> RecordDict:
    """`frames` as one array each, which Flower cuts into chunks of 5 MB and sends once where two
    messages hold the same. An answer names the `client` that gives it.
    """
    arrays = {str(i): Array("uint8", (len(f),), "bytes", bytes(f)) for i, f in enumerate(frames)}
    content = RecordDict({"frames": ArrayRecord(arrays)})
    if client is not None:
        content["client"] = ConfigRecord({"id": client})
    return content


def unpack(content: RecordDict) -> list[bytes]:
    """The frames of a message.

    Raises:
        ValueError: the message was not made by :func:`pack`.
    """
    try:
        arrays = content.array_records["frames"]
        return [arrays[str(i)].data for i in range(len(arrays))]
    except KeyError:
        raise ValueError("a message without frames") from None


def sender(content: RecordDict) -> int:
    """The client id that an answer names.

    Raises:
        ValueError: it names none.
    """
    try:
        client = content.config_records["client"]["id"]
    except KeyError:
        raise ValueError("an answer without a client id") from None
    if not isinstance(client, int) or client < 0:
        raise ValueError(f"client id {client!r}")
    return client
