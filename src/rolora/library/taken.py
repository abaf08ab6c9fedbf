"""What a run would take of a site of a federation, before the site takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rolora.config import Config
from rolora.core.types import Part
from rolora.engines.flower.handler import SiteModel
from rolora.engines.flower.policy import outside
from rolora.engines.flower.serve import load_site
from rolora.engines.flower.settings import SiteConfig
from rolora.engines.flower.told import Declined
from rolora.engines.preparation import checked_method
from rolora.server.budget import encoded_bytes
from rolora.server.ledger import planned_layout


@dataclass(frozen=True)
class Taken:
    """What a run would take.

    Args:
        run: its settings.
        method: its title.
        travels: what goes up and down, in words.
        refused: what of it the site's policy does not allow, a line each.
        examples: by split, the numbers that would be told; empty where nothing was loaded, as the
            policy refuses the run.
        label_counts: whether those of each label would be told as well.
        scores: whether sums for scores would be.
        leaves: what leaves, as parts joined by ``+``, with its bytes and the rounds in which it
            does; where an adaptive schedule decides, a round stands with each.
    """

    run: Config
    method: str
    travels: str
    refused: tuple[str, ...]
    examples: Mapping[str, int]
    label_counts: bool
    scores: bool
    leaves: Mapping[str, tuple[int, tuple[int, ...]]]


def taken(site: SiteConfig, run: Config) -> Taken:
    """What `run` would take of `site`; nothing is sent, and no model loaded that is not allowed.

    Raises:
        BadInput: the site's data or model cannot be had or do not fit.
    """
    method, refused, loaded = checked_method(run), outside(site.allow, run, site.model), None
    if not refused:
        try:
            loaded = load_site(site, run)
        except Declined as error:
            refused = [str(error)]
    return Taken(
        run=run,
        method=method.title,
        travels=method.travels,
        refused=tuple(refused),
        examples=loaded.facts.examples if loaded else {},
        label_counts=site.allow.label_counts,
        scores=site.allow.scores,
        leaves=_leaves(run, loaded) if loaded else {},
    )


def _leaves(run: Config, site: SiteModel) -> dict[str, tuple[int, tuple[int, ...]]]:
    """By parts: their bytes, and the rounds in which they leave."""
    agreed, found = site.agreed, dict[str, tuple[int, tuple[int, ...]]]()
    for number in range(1, run.rounds + 1):
        state = replace(agreed.initial, round=number - 1)
        for plan in agreed.method.plans(state, agreed.client):
            name = joined(plan.upload)
            if name not in found:
                found[name] = encoded_bytes(run, planned_layout(state.parts, plan)), ()
            size, rounds = found[name]
            found[name] = size, (*rounds, number)
    return found


def joined(parts: frozenset[Part]) -> str:
    """``A+head``."""
    return "+".join(sorted(parts))
