"""Opaque frames in a Flower message, and out of it."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from rolora.engines.flower.worker import Frames

Chunks = list[ConfigRecord]

_INLINE_BYTES, _CHUNK_BYTES = 2**20, 4 * 2**20


def pack(
    frames: Frames, client: int | None = None, packed: dict[int, Chunks] | None = None
) -> RecordDict:
    """A message of `frames`; an answer names the `client` that gives it.

    Flower moves each record in a request of its own, and one that two messages share only once. So
    frames up to 1 MB lie together in the record ``frames``, by their number; of a larger one it
    holds the number of chunks of 4 MB, which are the records ``<number>.<chunk>``.

    Args:
        packed: the chunks of frames packed before, by ``id(frame)``; given to each of several
            messages, it keeps one copy of a frame that they share.
    """
    record = ConfigRecord({"count": len(frames), "client": -1 if client is None else client})
    content = RecordDict({"frames": record})
    packed = {} if packed is None else packed
    for i, frame in enumerate(frames):
        if len(frame) <= _INLINE_BYTES:
            record[str(i)] = bytes(frame)
            continue
        chunks = packed.get(id(frame)) or packed.setdefault(id(frame), _chunks(frame))
        record[str(i)] = len(chunks)
        content.update({f"{i}.{k}": chunk for k, chunk in enumerate(chunks)})
    return content


class TooLarge(ValueError):  # noqa: N818
    """A message whose frames hold more than was asked for."""


def unpack(content: RecordDict, max_bytes: int | None = None) -> list[bytes]:
    """The frames of a message.

    Raises:
        ValueError: the message was not made by :func:`pack`.
        TooLarge: its frames hold more than `max_bytes`, which a message can do with far fewer
            bytes sent, as its records may be one and the same.
    """
    record, chunks = _record(content), content.config_records
    try:
        frames = [_held(record, chunks, i) for i in range(record["count"])]
    except (KeyError, TypeError):
        raise ValueError("a message with frames missing") from None
    size = sum(len(chunk) for frame in frames for chunk in frame)
    if max_bytes is not None and size > max_bytes:
        raise TooLarge(f"{size} bytes; at most {max_bytes} are taken")
    return [b"".join(frame) for frame in frames]


def sender(content: RecordDict) -> int:
    """The client id that an answer names.

    Raises:
        ValueError: it names none.
    """
    client = _record(content).get("client")
    if not isinstance(client, int) or client < 0:
        raise ValueError(f"an answer from client {client!r}")
    return client


def _chunks(frame: bytes) -> Chunks:
    starts = range(0, len(frame), _CHUNK_BYTES)
    return [ConfigRecord({"chunk": bytes(frame[s : s + _CHUNK_BYTES])}) for s in starts]


def _record(content: RecordDict) -> ConfigRecord:
    try:
        return content.config_records["frames"]
    except KeyError:
        raise ValueError("a message without frames") from None


def _held(record: ConfigRecord, chunks: Mapping[str, ConfigRecord], i: int) -> list[bytes]:
    held = record[str(i)]
    if isinstance(held, bytes):
        return [held]
    parts = [chunks[f"{i}.{k}"]["chunk"] for k in range(held)]
    if not all(isinstance(part, bytes) for part in parts):
        raise TypeError
    return parts
