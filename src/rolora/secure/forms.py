"""What clients and server of a secure sum say to each other, as bytes, and what it is about."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rolora.secure.shamir import BYTES, PRIME

STEPS = ("keys", "shares", "masked", "opened")
KEY, SEALED = 32, 2 * BYTES + 16
"""Bytes of a public key or a commitment, and of two sealed shares."""
SIGNATURE = 96
"""Bytes of a signature under a client's keys; zeros where there is none."""
NO_SHARE = b"\xff" * BYTES
"""In place of a share that its holder does not have."""

_KEYS = [("agree", f"V{KEY}"), ("mask", f"V{KEY}"), ("commitment", f"V{KEY}")]
_SEAT = np.dtype([("client", "<u4"), ("examples", "<u8"), *_KEYS, ("signature", f"V{SIGNATURE}")])
_DEALT = np.dtype([("client", "<u4"), ("sealed", f"V{SEALED}")])
_IDS = np.dtype("<u4")
_WEIGHTS = struct.Struct("<dd")


class BadForm(ValueError):  # noqa: N818
    """Bytes that are not what they should be; what is wrong with them."""


class Refused(Exception):  # noqa: N818
    """What a client does not answer, as an answer might tell of it alone; why."""


@dataclass(frozen=True)
class Terms:
    """What a sum is about; the same for all, from the run's settings.

    Args:
        round: of which it is.
        threshold: the fewest clients whose sum is opened, above half of those that are asked.
        most: how many are asked at most.
        reach: the largest number of a change (:class:`rolora.secure.fixed.FixedPoint`).
        by_examples: whether a client weighs as many as it has examples; else all weigh the same.
    """

    round: int
    threshold: int
    most: int
    reach: float
    by_examples: bool

    def weight(self, examples: int) -> float:
        """Of a client with so many examples, before it is cut."""
        return float(examples) if self.by_examples else 1.0


@dataclass(frozen=True)
class Keys:
    """What a client brings: the public key under which shares are sealed for it, that of its masks
    with the others, and the commitment to the secret of its own mask.
    """

    agree: bytes
    mask: bytes
    commitment: bytes

    def pack(self) -> bytes:
        """As bytes."""
        return self.agree + self.mask + self.commitment

    @staticmethod
    def unpack(text: bytes) -> Keys:
        """The inverse of :meth:`pack`.

        Raises:
            BadForm: it is of another length.
        """
        if len(text) != 3 * KEY:
            raise BadForm(f"keys of {len(text)} bytes; they must be {3 * KEY}")
        return Keys(text[:KEY], text[KEY : 2 * KEY], text[2 * KEY :])


@dataclass(frozen=True)
class Seat:
    """A client of a sum, its number of examples, and what it brings and says to be its own."""

    client: int
    examples: int
    keys: Keys
    signature: bytes


@dataclass(frozen=True)
class Roster:
    """Who takes part in a sum, as everybody is told.

    Its digest is part of every key that two clients agree on: of clients that are told different
    rosters the masks do not cancel, and what the server gets is noise.

    Args:
        terms: of the sum.
        limit: the most that a client weighs; inf: all as they are.
        total: weight of all that were asked, at least that of those here.
        seats: by client.
    """

    terms: Terms
    limit: float
    total: float
    seats: tuple[Seat, ...]

    def pack(self) -> bytes:
        """As bytes; the terms are known."""
        rows = [
            (s.client, s.examples, s.keys.agree, s.keys.mask, s.keys.commitment, s.signature)
            for s in self.seats
        ]
        return _WEIGHTS.pack(self.limit, self.total) + np.array(rows, _SEAT).tobytes()

    @staticmethod
    def unpack(terms: Terms, text: bytes) -> Roster:
        """The inverse of :meth:`pack`.

        Raises:
            BadForm: it is none, names a client twice, has fewer or more than the terms allow, or
                weights that are none.
        """
        rows = _rows(text[_WEIGHTS.size :], _SEAT, "a roster")
        limit, total = _WEIGHTS.unpack(text[: _WEIGHTS.size]) if len(rows) else (0.0, 0.0)
        ids = [int(row["client"]) for row in rows]
        if ids != sorted(set(ids)) or not terms.threshold <= len(ids) <= terms.most:
            raise BadForm(
                f"a roster of {len(ids)} clients; they must be {terms.threshold} to {terms.most}, "
                "each once, in order"
            )
        seats = (
            Seat(
                client,
                int(row["examples"]),
                Keys(*(row[name].tobytes() for name, _ in _KEYS)),
                row["signature"].tobytes(),
            )
            for client, row in zip(ids, rows, strict=True)
        )
        made = Roster(terms, limit, total, tuple(seats))
        if not (all(row["examples"] > 0 for row in rows) and made.weighs):
            raise BadForm("a roster with weights that are none")
        return made

    @cached_property
    def clients(self) -> tuple[int, ...]:
        """Their ids, in order."""
        return tuple(seat.client for seat in self.seats)

    @cached_property
    def digest(self) -> bytes:
        """Of all that it says."""
        return hashlib.sha256(repr(self.terms).encode() + self.pack()).digest()

    @cached_property
    def shares(self) -> Mapping[int, float]:
        """Each client's share of the weight; together 1 at most."""
        return {
            seat.client: min(self.terms.weight(seat.examples), self.limit) / self.total
            for seat in self.seats
        }

    @property
    def weighs(self) -> bool:
        """Whether its weights are some."""
        return (
            self.limit > 0.0
            and 0.0 < self.total < math.inf
            and sum(self.shares.values()) <= 1.0 + 1e-9
        )


@dataclass(frozen=True)
class Opened:
    """A sum that was opened: over whom, and the most that one of them weighed."""

    clients: frozenset[int]
    limit: float


NONE = Opened(frozenset(), 0.0)
"""No sum."""


def pack_dealt(dealt: Mapping[int, bytes]) -> bytes:
    """What each client dealt to one, sealed."""
    return np.array(sorted(dealt.items()), _DEALT).tobytes()


def unpack_dealt(text: bytes) -> dict[int, bytes]:
    """The inverse of :func:`pack_dealt`.

    Raises:
        BadForm: it is nothing of the kind.
    """
    rows = _rows(text, _DEALT, "dealt shares")
    return {int(row["client"]): row["sealed"].tobytes() for row in rows}


def pack_clients(clients: Iterable[int]) -> bytes:
    """Ids of clients."""
    return np.array(sorted(clients), _IDS).tobytes()


def unpack_clients(text: bytes) -> frozenset[int]:
    """The inverse of :func:`pack_clients`.

    Raises:
        BadForm: it is nothing of the kind.
    """
    return frozenset(_rows(text, _IDS, "clients").tolist())


def pack_share(share: int | None) -> bytes:
    """A share, or that there is none."""
    return NO_SHARE if share is None else share.to_bytes(BYTES, "big")


def unpack_share(text: bytes) -> int | None:
    """The inverse of :func:`pack_share`; None for what is no share."""
    share = int.from_bytes(text, "big")
    return share if share < PRIME else None


def pieces(text: bytes, size: int, count: int, what: str) -> list[bytes]:
    """`text` in `count` pieces of `size` bytes.

    Raises:
        BadForm: it is of another length.
    """
    if len(text) != size * count:
        raise BadForm(f"{what} of {len(text)} bytes; they must be {size * count}")
    return [text[start : start + size] for start in range(0, len(text), size)]


def beside(clients: int) -> tuple[int, int]:
    """Bytes up and down of one of so many clients, beside its masked numbers and its plan, if
    nobody drops out.
    """
    others = clients - 1
    up = 3 * KEY + SIGNATURE + SEALED * others + BYTES * clients
    down = _WEIGHTS.size + (_SEAT.itemsize + _IDS.itemsize) * clients + _DEALT.itemsize * others
    return up, down


def _rows(text: bytes, kind: np.dtype, what: str) -> np.ndarray:
    try:
        return np.frombuffer(text, kind)
    except ValueError:
        raise BadForm(f"{len(text)} bytes, which are not {what}") from None
