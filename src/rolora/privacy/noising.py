"""From the section ``privacy`` of a config to what makes noise of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from rolora.config import Config, OptimizerConfig, PrivacyConfig
from rolora.core.shares import count_of
from rolora.privacy.accounting import Accountant, noise_for
from rolora.stages import Chain, Stage, make_chain
from rolora.stages.noised import Noised


@dataclass(frozen=True)
class Release:
    """What one client's data go through in a run.

    Args:
        releases: how often at the most.
        accountant: what they spend.
    """

    releases: int
    accountant: Accountant


def by_client(config: Config, privacy: PrivacyConfig) -> Release:
    """With ``unit: client`` a round is one release, of a sample of the clients."""
    federation = config.federation
    return released(privacy, federation.cohort_size / federation.clients, config.rounds)


def by_example(
    privacy: PrivacyConfig, settings: OptimizerConfig, examples: int, rounds: int
) -> Release:
    """With ``unit: example`` each optimiser step of a client is one, of a sample of its examples.

    Args:
        privacy, settings: of the run.
        examples: that the client has.
        rounds: in which it may take part.
    """
    return released(
        privacy, min(1.0, settings.batch_size / examples), rounds * settings.steps(examples)
    )


def released(privacy: PrivacyConfig, rate: float, releases: int) -> Release:
    """With the noise as it is set, or as ``target_epsilon`` needs it for all releases."""
    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.target_epsilon is not None
        given = (privacy.target_epsilon, privacy.delta, rate, releases, privacy.accountant)
        noise = noise_for(*given)
    return Release(releases, Accountant(rate, noise, privacy.delta, privacy.accountant))


def chain_of(config: Config) -> Chain:
    """What becomes of an update on its way, in order: a client's share of the noise comes before
    all that may be set.
    """
    return Chain((*_shares(config), *make_chain(config.stages).stages))


def _shares(config: Config) -> tuple[Stage, ...]:
    privacy = config.privacy
    if privacy is None or privacy.unit != "client" or privacy.noised_by != "clients":
        return ()
    federation = config.federation
    # The fewest of whom a round is made, less the one that knows its own share.
    enough = max(count_of(federation.quorum, federation.clients), config.least_sum or 0) - 1
    noise = by_client(config, privacy).accountant.noise
    return (Noised(privacy.clip, noise / sqrt(enough), privacy.seed),)
