"""How a round's updates come from its clients where a secure sum hides each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import torch

from rolora.core.types import Adapter, Failure, Layout, Plan, Update
from rolora.reducers import Reduced, Reducer
from rolora.secure.fixed import LOSS
from rolora.secure.forms import BadForm, pack_clients
from rolora.secure.tally import Sealed, Tally
from rolora.server.gathering import Gathering, added_up
from rolora.server.screen import Screen, recorded
from rolora.stages import changed

log = logging.getLogger(__name__)


class SummedScreen(Screen):
    """Sees of an update what its masks leave: the form of it, and from whom it is.

    Attributes:
        loss: the weighted mean of the training losses, once the sum is opened.
    """

    loss = nan

    def decoded(self, update: Update, wanted: Layout) -> Update | Failure:
        """The update as it came, if it is masked."""
        loss = update.side.get(LOSS)
        if (
            update.parts.flat.dtype == torch.int32
            and loss is not None
            and update.side.keys() == {LOSS}
            and (loss.dtype, loss.shape) == (torch.int32, (1,))
        ):
            return update
        detail = "it is no masked update, and the run has a secure sum"
        return Failure(update.client, "malformed", detail)

    def note(self, update: Update) -> None:
        """Without loss and lengths, which nobody knows."""
        self.updates[update.client] = recorded(update, {})
        self.distances[update.client] = {}

    def train_loss(self, share: float) -> float:
        """As the sum has it, weighted as the updates are."""
        return self.loss


class Summed(Reducer[Reduced]):
    """The weighted mean of changes of which only the sum is known.

    Args:
        tally: the server's half of the sum.
        start: the parts that the clients start from.
    """

    title = "secure sum"

    def __init__(self, tally: Tally, start: Adapter):
        self.tally, self.start = tally, start
        self.layout = Layout(())
        self.mean = torch.zeros(0)

    def add(self, update: Update) -> None:
        """Add masked numbers.

        Raises:
            ValueError: the layout is not that of the first.
        """
        if self.tally.added and update.parts.layout != self.layout:
            raise ValueError("adapters of different layouts cannot be added up")
        self.layout = update.parts.layout
        self.tally.add(update)

    def limit(self) -> float:
        """The most that a client weighs."""
        return self.tally.roster.limit

    def result(self) -> Reduced:
        """The start with the mean change, of a sum that is opened."""
        mean = Adapter(self.layout, self.mean.float())
        return Reduced(changed(self.start, mean), len(self.tally.added))


@dataclass
class SummedGathering(Gathering):
    """One attempt at a round's sum, in the four steps of :mod:`rolora.secure`.

    Attributes:
        screen, reducer: those above.
        losses: whether the clients tell their training losses.
        opened: whether the sum is.
    """

    screen: SummedScreen
    reducer: Summed
    losses: bool = field(kw_only=True)
    opened: bool = False

    @property
    def complete(self) -> bool:
        """Whether there is a sum over enough clients."""
        return self.opened

    def gather(self, plans: Sequence[Plan]) -> Exception | None:
        """The sum of what the plans' clients send; opened only where it is of enough of them."""
        error = added_up(self.reducer, self.screen.sound(self._answers(plans)))
        if error is None and len(self.tally.added) >= self.enough:
            for _ in self.screen.sound(self._opening()):
                pass
        return error

    @property
    def tally(self) -> Tally:
        """The server's half of the sum."""
        return self.reducer.tally

    def _answers(self, plans: Sequence[Plan]) -> Iterator[Update | Failure]:
        """Steps 1 to 3; the masked updates."""
        asked, tally = [plan.client for plan in plans], self.tally
        yield from self._step("keys", dict.fromkeys(asked, b""), self._seated)
        for client in tally.close({client: self.engine.registered(client) for client in asked}):
            detail = "this round's sum was opened without it before; it is opened as it was, or not"
            yield Failure(client, "left_out", detail)
        seats = tally.roster.clients
        if len(seats) >= self.enough:
            told = dict.fromkeys(seats, tally.roster.pack())
            yield from self._step("shares", told, tally.dealt)
        if len(tally.dealers) >= self.enough:
            dealt = {client: tally.passed_on(client) for client in sorted(tally.dealers)}
            self.down += sum(map(len, dealt.values()))
            yield from self.engine.train([p for p in plans if p.client in dealt], dealt)

    def _seated(self, client: int, answer: bytes) -> None:
        if not self.engine.registered(client):
            raise BadForm("of a client without examples, which weighs nothing")
        self.tally.seated(client, answer)

    def _opening(self) -> Iterator[Failure]:
        """Step 4; who failed in it, though its update is in the sum."""
        tally = self.tally
        told, answered = pack_clients(tally.added), set[int]()

        def take(client: int, answer: bytes) -> None:
            tally.given(client, answer)
            answered.add(client)

        yield from self._step("opened", dict.fromkeys(sorted(tally.added), told), take)
        if len(answered) < tally.terms.threshold:
            log.warning("a sum stays closed: %s of its clients are left", len(answered))
            return
        try:
            self.reducer.mean, loss, liars = tally.opened()
        except Sealed as error:
            yield Failure(error.client, "sealed", str(error))
            return
        self.opened, self.screen.loss = True, loss if self.losses else nan
        for client in liars:
            yield Failure(client, "false_share", "the sum was opened with the shares of others")

    def _step(
        self, step: str, texts: Mapping[int, bytes], take: Callable[[int, bytes], None]
    ) -> Iterator[Failure]:
        """Ask for a step and take the answers; who gave none that can be taken."""
        self.down += sum(map(len, texts.values()))
        for client, answer in self.engine.exchange(step, self.tally.terms.round, texts):
            if isinstance(answer, Failure):
                yield answer
                continue
            self.up += len(answer)
            try:
                take(client, answer)
            except BadForm as error:
                yield Failure(client, "malformed", f"{step}: {error}")
