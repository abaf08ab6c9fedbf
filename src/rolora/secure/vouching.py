"""Who says whose keys are whose: the server, or the sites, whose keys others have pinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rolora.secure.forms import SIGNATURE, Keys, Refused, Seat, Terms
from rolora.secure.primitives import SigningKey, VerifyingKey, signature, verified


class Vouching(Protocol):
    """What a client does about it."""

    def sign(self, client: int, terms: Terms, keys: Keys) -> bytes:
        """Its signature under its keys of one sum, 96 bytes."""

    def check(self, seat: Seat, terms: Terms) -> None:
        """See whether the keys of a seat are of the client that sits there.

        Raises:
            Refused: nobody that it knows says so.
        """


class OnTheServersWord:
    """Nothing is signed, and all is believed."""

    def sign(self, client: int, terms: Terms, keys: Keys) -> bytes:
        """None."""
        return bytes(SIGNATURE)

    def check(self, seat: Seat, terms: Terms) -> None:
        """Believed."""


@dataclass(frozen=True)
class Signed:
    """Keys are signed with a site's node key, for one round of one run.

    Args:
        run: which run it is.
        own: the site's key.
        peers: the other sites' by client; where there are some, no others are believed.
    """

    run: str
    own: SigningKey
    peers: Mapping[int, VerifyingKey]

    def sign(self, client: int, terms: Terms, keys: Keys) -> bytes:
        """With its own key."""
        return signature(self.own, self._text(client, terms, keys))

    def check(self, seat: Seat, terms: Terms) -> None:
        """Against the pinned key."""
        if not self.peers:
            return
        peer = self.peers.get(seat.client)
        if peer is None:
            raise Refused(f"client {seat.client} is on the roster, and peers has no key of it")
        if not verified(peer, seat.signature, self._text(seat.client, terms, seat.keys)):
            raise Refused(f"the keys of client {seat.client} are not signed with the key in peers")

    def _text(self, client: int, terms: Terms, keys: Keys) -> bytes:
        return repr(("rolora secure sum", self.run, client, terms)).encode() + keys.pack()
