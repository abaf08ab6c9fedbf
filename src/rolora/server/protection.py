"""What privacy changes in a run's rounds: who takes part, what is summed, what it spends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from rolora.config import Config, PrivacyConfig
from rolora.core.errors import BadInput
from rolora.core.noise import Noise
from rolora.core.types import ClientInfo, ServerState
from rolora.methods import Method
from rolora.privacy.accounting import Accountant
from rolora.privacy.noising import by_client, by_example
from rolora.records.schema import PrivacyRecord, RoundRecord
from rolora.reducers import Limited, Reducer, make_reducer
from rolora.reducers.noised_mean import NoisedMean
from rolora.server.cohort import sample_cohort
from rolora.server.ledger import planned_layout


@dataclass
class Protection:
    """Of a run that promises nothing.

    Args:
        config: of the run.
    """

    config: Config

    @property
    def counts(self) -> bool:
        """Whether each model that is shown is one release of those that are counted."""
        return self.config.privacy is not None

    def cohort(
        self, clients: Sequence[ClientInfo], number: int, attempt: int
    ) -> Sequence[ClientInfo]:
        """Who takes part in a round, by id."""
        return sample_cohort(self.config, clients, number, attempt)

    def reducer(self, method: Method, start: ServerState) -> Reducer[Any]:
        """A new reducer: the method's own where it needs each client's factors, else the run's;
        where weights count, no one's is more than the config allows.

        Args:
            method: of the run.
            start: what the clients start from.
        """

        def make() -> Reducer[Any]:
            if method.reduction == "each":
                return method.reducer()
            size = self.config.federation.cohort_size
            return make_reducer(self.config.server.reducer, size, start.parts)

        share = self.config.largest_share
        return Limited(make, share) if share < 1.0 and make().weighted else make()

    def allows(self, number: int) -> bool:
        """Whether a round of this number may begin."""
        return True

    def note(self, record: RoundRecord) -> None:
        """A round is finished."""

    @property
    def epsilon(self) -> float | None:
        """Spent in all finished rounds, by whoever spent most; None: nothing is counted."""
        return None

    def told(self) -> PrivacyRecord | None:
        """What has been spent and how it was counted; None: nothing is counted."""
        return None


@dataclass
class ClientLevel(Protection):
    """Each client takes part by a coin of its own, and the sum of what they send is noised.

    Of N clients each takes part with probability ``q = clients_per_round / N``, whoever else does.
    The aggregate is ``x_0 + c (sum_k clip((x_k - x_0) / c) + z n) / (q N)``, whose divisor does not
    depend on who came. A round that too few answer is tried again with the same clients: with
    others, who took part would be another draw than what is counted.

    Neighbours are two runs in one of which one client's changes are zero; who is registered is no
    secret, and who took part in which round is told to nobody but the server.

    Source: McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018
    (arXiv 1710.06963), Algorithm 1 with the estimator of a fixed denominator.

    Args:
        privacy: of the run.
        draws: the server's.
        finished: rounds so far.
    """

    privacy: PrivacyConfig
    draws: Noise
    finished: int = 0

    @cached_property
    def accountant(self) -> Accountant:
        """What each round spends."""
        return by_client(self.config, self.privacy).accountant

    def cohort(
        self, clients: Sequence[ClientInfo], number: int, attempt: int
    ) -> Sequence[ClientInfo]:
        """Perhaps nobody."""
        if self.accountant.rate == 1.0:
            return list(clients)
        drawn = self.draws.uniform(self.config.federation.clients, "cohort", number)
        return [client for client in clients if drawn[client.id] < self.accountant.rate]

    def reducer(self, method: Method, start: ServerState) -> Reducer[Any]:
        """The noised mean, where the noise is the server's."""
        if self.privacy.noised_by != "server":
            return super().reducer(method, start)
        anyone = self.config.client(0, 0)
        layout, number = planned_layout(start.parts, method.plan(start, anyone)), start.round + 1

        def noise(total: Tensor) -> Tensor:
            names = self.draws.over(total, "noise", number)
            return self.accountant.noise * self.draws.gaussian(len(total), *names)

        expected = float(self.config.federation.cohort_size)
        return NoisedMean(start.parts, layout, self.privacy.clip, expected, noise)

    def allows(self, number: int) -> bool:
        """Whether `target_epsilon` is kept to after it."""
        target = self.privacy.target_epsilon
        return target is None or self.accountant.epsilon(number) <= target

    def note(self, record: RoundRecord) -> None:
        """One release more."""
        self.finished = record.round

    @property
    def epsilon(self) -> float:
        """The same for every client."""
        return self.accountant.epsilon(self.finished)

    def told(self) -> PrivacyRecord:
        """With the round's noise."""
        return recorded(self.privacy, self.epsilon, self.accountant.noise)


@dataclass
class ExampleLevel(Protection):
    """Each client hides its own examples; the server counts what each has spent.

    A client that was asked in a round has spent it, whether or not its update arrived.

    Args:
        privacy: of the run.
        registered: the number of a client's training examples.
        asked: how often each client was.
    """

    privacy: PrivacyConfig
    registered: Callable[[int], int]
    asked: Counter[int] = field(default_factory=Counter)

    def accountant(self, client: int) -> tuple[Accountant, int]:
        """What each step of a client spends, and its steps in a round."""
        settings, examples = self.config.optimizer, max(1, self.registered(client))
        release = by_example(self.privacy, settings, examples, self.config.rounds)
        return release.accountant, settings.steps(examples)

    def releases(self, more: int = 0) -> dict[int, tuple[Accountant, int]]:
        """What each known client's releases spend, and how many they are after so many rounds more
        in which all take part.
        """
        clients = range(self.config.federation.clients)
        found = {client: self.accountant(client) for client in clients if self.registered(client)}
        return {k: (each, steps * (self.asked[k] + more)) for k, (each, steps) in found.items()}

    def epsilons(self) -> dict[int, float]:
        """By client."""
        return {client: each.epsilon(n) for client, (each, n) in self.releases().items()}

    def largest(self, more: int = 0) -> float:
        """The epsilon of whoever has spent most after so many rounds more. Who has no less noise,
        no larger samples and no more releases than another has not, and is not looked at.
        """
        most: dict[tuple[float, float], int] = {}
        for each, n in self.releases(more).values():
            most[each.noise, each.rate] = max(n, most.get((each.noise, each.rate), 0))
        worst = [
            (noise, rate, n)
            for (noise, rate), n in most.items()
            if not any(
                other <= noise and often >= rate and m >= n and (other, often) != (noise, rate)
                for (other, often), m in most.items()
            )
        ]
        given = (self.privacy.delta, self.privacy.accountant)
        spent = (Accountant(rate, noise, *given).epsilon(n) for noise, rate, n in worst)
        return max(spent, default=0.0)

    def allows(self, number: int) -> bool:
        """Whether every client would keep to `target_epsilon`, if it took part."""
        target = self.privacy.target_epsilon
        if target is None or self.privacy.noise_multiplier is None:
            return True  # solved for all rounds
        return self.largest(more=1) <= target

    def note(self, record: RoundRecord) -> None:
        """Who was asked in it."""
        answered = {update.client for update in record.updates}
        self.asked.update(answered | {failure.client for failure in record.failures})

    @property
    def epsilon(self) -> float:
        """The largest of any client."""
        return self.largest()

    def told(self) -> PrivacyRecord:
        """Every client's."""
        found = self.epsilons()
        noise = min((each.noise for each, _ in self.releases().values()), default=0.0)
        return recorded(self.privacy, self.largest(), noise, found)


def recorded(
    privacy: PrivacyConfig, epsilon: float, noise: float, clients: Mapping[int, float] = {}
) -> PrivacyRecord:
    """As it is written down."""
    return PrivacyRecord(
        unit=privacy.unit,
        epsilon=epsilon,
        delta=privacy.delta,
        noise_multiplier=noise,
        accountant=privacy.accountant,
        repeatable=privacy.seed is not None,
        clients={str(client): spent for client, spent in clients.items()},
    )


def unprotected(config: Config) -> Protection:
    """Of a run that promises nothing.

    Raises:
        BadInput: it does promise something.
    """
    if config.privacy is not None:
        raise BadInput("privacy: what runs here has no key for its noise; leave privacy out")
    return Protection(config)


def protection_of(
    config: Config,
    draws: Callable[[], Noise],
    registered: Callable[[int], int],
    before: Sequence[RoundRecord] = (),
) -> Protection:
    """Of a run.

    Args:
        config: of the run.
        draws: makes the server's draws.
        registered: the number of a client's training examples.
        before: the rounds that are finished.

    Raises:
        BadInput: not even the first is allowed.
    """
    privacy = config.privacy
    if privacy is None:
        return Protection(config)
    made: Protection = ExampleLevel(config, privacy, registered)
    if privacy.unit == "client":
        made = ClientLevel(config, privacy, draws())
    for record in before:
        made.note(record)
    if not (before or made.allows(1)):
        raise BadInput(
            f"privacy.target_epsilon = {privacy.target_epsilon:g}: round 1 alone would spend more "
            f"with noise_multiplier = {privacy.noise_multiplier:g}; allow more, or add more noise"
        )
    return made
