"""What does not go with privacy, by name, before round 1."""

from __future__ import annotations

from collections.abc import Iterator

from rolora.config import Config, PrivacyConfig
from rolora.core.errors import BadInput
from rolora.core.shares import count_of
from rolora.methods import Method
from rolora.privacy.accounting import library


def check_privacy(config: Config, method: Method) -> None:
    """Refuse what would make the promise of ``privacy`` untrue.

    Raises:
        BadInput: with the field, its value, and what would be right.
    """
    if config.privacy is None:
        return
    library()
    unit = _client_level if config.privacy.unit == "client" else _example_level
    for wrong in (*_parts(config, config.privacy), *unit(config, config.privacy, method)):
        raise BadInput(wrong)


def _parts(config: Config, privacy: PrivacyConfig) -> Iterator[str]:
    needed = {"A", "B"} | ({"head"} if config.model.head != "frozen" else set())
    if not isinstance(privacy.clip, float) and needed - privacy.clip.keys():
        lacking = ", ".join(sorted(needed - privacy.clip.keys()))
        yield f"privacy.clip = {privacy.clip}: it has none for {lacking}; name all, or give one"
    if config.checkpoint.every != 1:
        yield (
            f"checkpoint.every = {config.checkpoint.every}: rounds that are lost and done again "
            "would be told twice, and be counted once; a private run needs 1"
        )


def _client_level(config: Config, privacy: PrivacyConfig, method: Method) -> Iterator[str]:
    server = config.server
    if method.reduction != "sum":
        yield (
            f"privacy.unit = 'client': {method.title} needs more of its clients than the sum of "
            "what they send, and the noise is on the sum; use a method that needs the sum alone "
            "(rolora, fedit, ffa_lora), or unit: example"
        )
    if method.local():
        yield (
            f"privacy.unit = 'client': with {method.title} and model.head: {config.model.head} "
            f"clients keep {', '.join(sorted(method.local()))} for themselves, which is not "
            "noised, and whose scores are told; use unit: example, or share all parts"
        )
    if server.weighting != "uniform":
        yield (
            f"server.weighting = {server.weighting!r}: the noise is that of one client's part in "
            "the sum, which a weight would change; use uniform"
        )
    if server.reducer.name != "mean":
        yield (
            f"server.reducer = {server.reducer.name!r}: how far one client moves it is not bounded "
            "by the clip; use mean"
        )
    if privacy.noised_by == "clients":
        yield from _shares(config)


def _shares(config: Config) -> Iterator[str]:
    federation = config.federation
    if federation.cohort_size < federation.clients:
        yield (
            "privacy.noise = 'clients': each client adds its share of one round's noise, so that "
            f"all must be asked; federation.clients_per_round = {federation.cohort_size} is fewer "
            f"than {federation.clients}: leave it out, or have the server add the noise"
        )
    if count_of(federation.quorum, federation.clients) < 2:
        yield (
            f"federation.quorum = {federation.quorum:g}: of {federation.clients} clients one alone "
            "would do, and its share of the noise hides nothing from itself; at least two"
        )


def _example_level(config: Config, privacy: PrivacyConfig, method: Method) -> Iterator[str]:
    if config.objective.logit_adjustment > 0:
        yield (
            f"objective.logit_adjustment = {config.objective.logit_adjustment:g}: a client's label "
            "shares, which every example moves, would stand in each example's gradient; use 0"
        )
    if config.server.weighting == "information":
        yield (
            "server.weighting = 'information': it tells of a client's label shares, which are not "
            "noised; use examples or uniform"
        )
