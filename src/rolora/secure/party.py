"""A client's half of the secure sum of one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from rolora.core.types import Adapter, Update
from rolora.secure import primitives
from rolora.secure.fixed import LOSS, Form, Numbers
from rolora.secure.forms import (
    NONE,
    SEALED,
    STEPS,
    BadForm,
    Keys,
    Opened,
    Refused,
    Roster,
    Terms,
    pack_clients,
    pack_share,
    unpack_clients,
    unpack_dealt,
    unpack_share,
)
from rolora.secure.shamir import BYTES, deal, fresh
from rolora.secure.vouching import OnTheServersWord, Vouching


class Party:
    """Answers each step once, in their order; for another attempt there is another party.

    It believes the server nothing that it can see for itself: that its own keys and number of
    examples stand in the roster, and that a sum is of as many clients as the settings say. Whose
    the other keys are it takes on the server's word, unless `vouching` says otherwise.

    Args:
        client: its id.
        examples: how many it has.
        terms: of the sum, by the settings that the client agreed to.
        before: the sum of this round that it helped to open, as when a server went on from an
            earlier round; it helps with no other, as two sums tell their difference.
        vouching: who says whose keys are whose.
    """

    def __init__(
        self,
        client: int,
        examples: int,
        terms: Terms,
        before: Opened = NONE,
        vouching: Vouching | None = None,
    ):
        self.client, self.examples, self.terms, self.before = client, examples, terms, before
        self._vouching = vouching or OnTheServersWord()
        self._own, self._pair = fresh(), fresh()
        self._agree, self._mask = map(primitives.private_key, (fresh(), self._pair))
        self._keys = Keys(
            primitives.public(self._agree),
            primitives.public(self._mask),
            primitives.commitment(self._own),
        )
        self._answered: list[str] = []
        self._held: dict[int, tuple[int | None, int | None]] = {}

    def answer(self, step: str, text: bytes) -> bytes:
        """The answer to a step but ``masked``.

        Raises:
            Refused: it is not the next one, or not of this sum.
        """
        answers = {"keys": self.keys, "shares": self.shares, "opened": self.opened}
        if step not in answers:
            raise Refused(f"no such step: {step!r:.60}")
        try:
            return answers[step](text)
        except BadForm as error:
            raise Refused(str(error)) from None

    def keys(self, text: bytes = b"") -> bytes:
        """Its public keys and its commitment, signed, and over whom it helped to open the sum
        before.
        """
        self._next("keys")
        signature = self._vouching.sign(self.client, self.terms, self._keys)
        return self._keys.pack() + signature + pack_clients(self.before.clients)

    def shares(self, text: bytes) -> bytes:
        """For each other client of the roster, in their order, its shares of both secrets."""
        self._next("shares")
        roster = Roster.unpack(self.terms, text)
        mine = [seat for seat in roster.seats if seat.client == self.client]
        if [(seat.examples, seat.keys) for seat in mine] != [(self.examples, self._keys)]:
            raise Refused("a roster in which it does not stand as it is")
        for seat in roster.seats:
            if seat.client != self.client:
                self._vouching.check(seat, self.terms)
        self.roster = roster
        numbers = [client + 1 for client in roster.clients]
        own, pair = (deal(s, self.terms.threshold, numbers) for s in (self._own, self._pair))
        self._held[self.client] = own[self.client + 1], pair[self.client + 1]
        return b"".join(
            primitives.seal(
                self._sealing(self.client, seat.client),
                pack_share(own[seat.client + 1]) + pack_share(pair[seat.client + 1]),
            )
            for seat in roster.seats
            if seat.client != self.client
        )

    def masked(self, text: bytes, update: Update) -> Update:
        """The update as it travels: whole numbers that say nothing without the others'.

        Args:
            text: what the others dealt this client.
            update: its parts are the change.

        Raises:
            Refused: too few others take part.
            Withheld: the change cannot be one of a sum.
        """
        self._next("masked")
        try:
            dealt = unpack_dealt(text)
        except BadForm as error:
            raise Refused(str(error)) from None
        roster = self.roster
        if not dealt.keys() <= set(roster.clients) - {self.client}:
            raise Refused("shares of clients that are not on the roster")
        if len(dealt) + 1 < self.terms.threshold:
            raise Refused(f"{len(dealt) + 1} clients, and {self.terms.threshold} are agreed on")
        for client, sealed in dealt.items():
            self._held[client] = self._unsealed(client, sealed)
        form = Form(self.terms.reach, self.terms.most)
        numbers = form.encoded(update, roster.shares[self.client])
        numbers += primitives.own_mask(self._own, len(numbers))
        for seat in roster.seats:
            if seat.client in dealt:
                numbers += self._pairwise(seat.client, seat.keys.mask, len(numbers))
        return hidden(update, numbers)

    def opened(self, text: bytes) -> bytes:
        """For each client that masked, in their order, its share of what opens the sum.

        Args:
            text: whose masked numbers came.
        """
        self._next("opened")
        there = unpack_clients(text)
        self._check(there)
        return b"".join(
            pack_share(own if client in there else pair)
            for client, (own, pair) in sorted(self._held.items())
        )

    def sum_over(self, text: bytes) -> Opened:
        """The sum that it is asked to help with."""
        return Opened(unpack_clients(text), self.roster.limit)

    def _check(self, there: frozenset[int]) -> None:
        if not there <= self._held.keys() or self.client not in there:
            raise Refused("a sum over clients that did not all mask for each other")
        if len(there) < self.terms.threshold:
            raise Refused(f"a sum over {len(there)}, and {self.terms.threshold} are agreed on")
        if self.before != NONE and Opened(there, self.roster.limit) != self.before:
            raise Refused(
                f"the sum of round {self.terms.round} over {sorted(there)}, after that over "
                f"{sorted(self.before.clients)}, or by other weights: their difference would tell "
                "of single clients"
            )

    def _next(self, step: str) -> None:
        if (step,) != STEPS[len(self._answered) :][:1]:
            raise Refused(f"step {step} after {self._answered}")
        self._answered.append(step)

    def _sealing(self, sender: int, receiver: int) -> bytes:
        """The key of what one seals for the other, of whom this client is either."""
        other = receiver if sender == self.client else sender
        keys = next(seat.keys for seat in self.roster.seats if seat.client == other)
        use = b"shares of %d for %d in " % (sender, receiver)
        return primitives.agreed(self._agree, keys.agree, use + self.roster.digest)

    def _unsealed(self, sender: int, sealed: bytes) -> tuple[int | None, int | None]:
        """The shares that `sender` dealt; none where they are not from it, or not for here."""
        text = primitives.unsealed(self._sealing(sender, self.client), sealed)
        if text is None or len(text) != SEALED - 16:
            return None, None
        return unpack_share(text[:BYTES]), unpack_share(text[BYTES:])

    def _pairwise(self, other: int, public: bytes, size: int) -> Numbers:
        """What this client adds for another, and the other takes off."""
        return signed(pair_mask(self._mask, public, self.roster, size), self.client, other)


def pair_mask(key: primitives.PrivateKey, public: bytes, roster: Roster, size: int) -> Numbers:
    """The mask that two clients share, of the private key of one and the public of the other."""
    return primitives.mask(primitives.agreed(key, public, b"masks in " + roster.digest), size)


def signed(mask: Numbers, client: int, other: int) -> Numbers:
    """A shared mask as `client` adds it: as it is towards higher ids, taken off towards lower."""
    return mask if client < other else -mask


def hidden(update: Update, numbers: Numbers) -> Update:
    """The update with masked numbers for its change and its training loss."""
    whole = torch.from_numpy(numbers.view(np.int32))
    metrics: Mapping[str, float] = {k: v for k, v in update.metrics.items() if k != "train_loss"}
    return replace(
        update,
        parts=Adapter(update.parts.layout, whole[:-1]),
        side={**update.side, LOSS: whole[-1:].clone()},
        metrics=metrics,
    )
