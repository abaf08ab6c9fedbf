"""Bounds of what other machines say: a model here parses every number, word and list of theirs, and
whatever goes wrong in reading an answer is the failure of the client that gave it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rolora.core.types import Failure

HEADER_BYTES = 2**22
"""The longest text of JSON that is read: room for the names of 100,000 labels."""
MOST = 2**53
"""Beyond it a float holds no whole number exactly, so that sums of counts would be wrong."""
MOST_LOSS = 1e9
"""No mean loss is larger, of a batch, of held-out rows or of their tokens, whatever is learned."""

Told = TypeVar("Told", bound="Answer")
Made = TypeVar("Made")

Word = Annotated[str, Field(max_length=64)]
Text = Annotated[str, Field(max_length=500)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Split = Literal["train", "validation", "test"]

log = logging.getLogger(__name__)


class WireError(ValueError):
    """Bytes that are not what they should be; the message says in what."""


class Answer(BaseModel):
    """A JSON object that somebody else wrote: nothing is converted, nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Facts(Answer):
    """What a site says of its data when it joins."""

    protocol: Whole
    names: Annotated[tuple[Text, ...], Field(max_length=100_000)]
    examples: dict[Split, Whole]
    strata: dict[Split, tuple[Whole, ...]] | None
    test_from: Text
    fingerprint: Text


class Trained(Answer):
    """What stands beside an update's tensors. A loss may be no number here, as that of a diverged
    client is; the screen refuses it with its name.
    """

    client: Whole
    num_examples: Whole
    weight: Number | None
    metrics: Annotated[dict[Word, float], Field(max_length=64)]


class Evaluated(Answer):
    """One evaluation: a number of examples, and sums over them."""

    client: Whole
    num_examples: Whole
    sums: Annotated[dict[Word, tuple[Number, ...]], Field(max_length=64)]


class Evaluations(Answer):
    """An evaluated client's answer: none where it has no held-out examples."""

    kind: Literal["evaluations"]
    evaluations: Annotated[tuple[Evaluated, ...], Field(max_length=1)]


class Stale(Answer):
    """The answer of a client that lacks a part: the versions that it holds."""

    kind: Literal["stale"]
    held: Annotated[dict[Word, tuple[Whole, ...]], Field(max_length=64)]


class UpdateFollows(Answer):
    """The first frame of a trained client's answer."""

    kind: Literal["update"]


class StepFollows(Answer):
    """The first frame of an answer to a step of a secure sum."""

    kind: Literal["step"]


class Step(Answer):
    """The first frame of a request for one."""

    step: Word
    run: Word
    round: Whole


def told(kind: type[Told], text: bytes | str, what: str) -> Told:
    """The JSON object in `text`.

    Args:
        kind: what it should be.
        text: as it came.
        what: the same in words, such as ``an update``.

    Raises:
        WireError: too long, no JSON, or a value that is not within its bounds.
    """
    if len(text) > HEADER_BYTES:
        raise WireError(f"not {what} (a header of {len(text)} bytes; at most {HEADER_BYTES})")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise WireError(f"not {what} ({said})") from None


def sound(client: int, read: Callable[[], Made]) -> Made | Failure:
    """What `read` makes of a client's answer. Whatever it raises is that client's failure: also
    what nobody thought of, which the log tells in full.
    """
    try:
        return read()
    except WireError as error:
        return Failure(client, "malformed", str(error))
    except Exception as error:
        log.exception("client %s: its answer cannot be read", client)
        return Failure(client, "malformed", f"{type(error).__name__}: {error}")
