"""The server's half of the secure sum of one round."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rolora.core.shares import cap
from rolora.core.types import Update
from rolora.secure import primitives
from rolora.secure.fixed import LOSS, Form, Numbers
from rolora.secure.forms import (
    KEY,
    SEALED,
    SIGNATURE,
    BadForm,
    Keys,
    Roster,
    Seat,
    Terms,
    pack_dealt,
    pieces,
    unpack_clients,
    unpack_share,
)
from rolora.secure.party import pair_mask, signed
from rolora.secure.shamir import BYTES, together


class Sealed(Exception):  # noqa: N818
    """A sum that cannot be opened, as a client's secret cannot be had; why."""

    def __init__(self, client: int, detail: str):
        super().__init__(detail)
        self.client = client


class Tally:
    """What the server has of a sum: first the roster, then one total, then what opens it.

    Args:
        terms: of the sum.
        share: the largest share of the weight of those asked that a client may have.
    """

    def __init__(self, terms: Terms, share: float):
        self.terms, self.share = terms, share
        self._keys: dict[int, tuple[Keys, bytes, frozenset[int]]] = {}
        self._dealt: dict[int, dict[int, bytes]] = {}
        self._total: Numbers | None = None
        self.added: list[int] = []
        self._given: dict[int, dict[int, int]] = {}
        """Per client of whom, by the number of its holder, shares were given."""

    def seated(self, client: int, answer: bytes) -> None:
        """Take a client's answer to ``keys``.

        Raises:
            BadForm: it is none.
        """
        keys = Keys.unpack(answer[: 3 * KEY])
        rest = answer[3 * KEY :]
        if len(rest) < SIGNATURE:
            raise BadForm("keys without room for a signature")
        self._keys[client] = keys, rest[:SIGNATURE], unpack_clients(rest[SIGNATURE:])

    def close(self, examples: Mapping[int, int]) -> frozenset[int]:
        """Make the roster of those that brought keys; returns who is left out, as more than half of
        them say that the round's sum was opened over others before. Who weighs how much does not
        depend on who dropped out: two sums over the same clients by other weights would tell them
        apart.

        Args:
            examples: of all that were asked, as far as it is known.
        """
        said = [before for _, _, before in self._keys.values()]
        again = max(said, key=said.count, default=frozenset())
        if not again or 2 * said.count(again) <= len(said):
            again = frozenset(self._keys)
        weights = [self.terms.weight(count) for count in examples.values() if count]
        limit = cap(weights, self.share)
        seats = (
            Seat(client, examples[client], keys, signature)
            for client, (keys, signature, _) in sorted(self._keys.items())
            if client in again
        )
        total = sum(min(weight, limit) for weight in weights)
        self.roster = Roster(self.terms, limit, total, tuple(seats))
        return frozenset(self._keys) - again

    def dealt(self, client: int, answer: bytes) -> None:
        """Take a client's answer to ``shares``.

        Raises:
            BadForm: it is none.
        """
        others = [other for other in self.roster.clients if other != client]
        sealed = pieces(answer, SEALED, len(others), "dealt shares")
        self._dealt[client] = dict(zip(others, sealed, strict=True))

    @property
    def dealers(self) -> frozenset[int]:
        """Who dealt, and is asked for masked numbers."""
        return frozenset(self._dealt)

    def passed_on(self, client: int) -> bytes:
        """What the others dealt `client`."""
        return pack_dealt({v: given[client] for v, given in self._dealt.items() if v != client})

    def add(self, update: Update) -> None:
        """Add a client's masked numbers."""
        parts = update.parts.flat.numpy(), update.side[LOSS].numpy()
        numbers = np.concatenate(parts).view(np.uint32)
        self._total = numbers if self._total is None else self._total + numbers
        self.added.append(update.client)

    def given(self, client: int, answer: bytes) -> None:
        """Take a client's answer to ``opened``.

        Raises:
            BadForm: it is none.
        """
        of = sorted(self._dealt)
        for other, text in zip(of, pieces(answer, BYTES, len(of), "shares"), strict=True):
            share = unpack_share(text)
            if share is not None:
                self._given.setdefault(other, {})[client + 1] = share

    def opened(self) -> tuple[Tensor, float, frozenset[int]]:
        """The weighted means of the changes, in float64, and of the losses, over those that sent
        masked numbers; and who gave a false share.

        Raises:
            Sealed: too few shares were given, or one dealt shares of no secret.
        """
        assert self._total is not None
        keys = {seat.client: seat.keys for seat in self.roster.seats}
        total, size, liars = self._total.copy(), len(self._total), set[int]()
        for client in sorted(self._dealt):
            there = client in self.added
            secret, false = self._secret(client, keys[client], there)
            liars |= false
            if there:
                total -= primitives.own_mask(secret, size)
                continue
            key = primitives.private_key(secret)
            for other in self.added:  # which added a mask that this one did not take off
                shared = pair_mask(key, keys[other].mask, self.roster, size)
                total -= signed(shared, other, client)
        means, loss = Form(self.terms.reach, self.terms.most).decoded(total)
        weight = sum(self.roster.shares[client] for client in self.added)
        return means / weight, loss / weight, frozenset(liars)

    def _secret(self, client: int, keys: Keys, there: bool) -> tuple[int, set[int]]:
        """The secret of a client that opens the sum, and who gave a false share of it."""

        def fits(secret: int) -> bool:
            if there:
                return primitives.commitment(secret) == keys.commitment
            return primitives.public(primitives.private_key(secret)) == keys.mask

        shares: Mapping[int, int] = self._given.get(client, {})
        found = together(shares, self.terms.threshold, fits)
        if found is None:
            detail = (
                f"{len(shares)} shares of what it dealt do not make up its secret; it takes "
                f"{self.terms.threshold} true ones"
            )
            raise Sealed(client, detail)
        return found[0], {holder - 1 for holder in found[1]}
