"""What a hostile client does, tried in the simulator: no config of a run leads here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rolora.attacks.changes import Lie, alie, boosted, inner_product, noise, scaled, sign_flip
from rolora.attacks.examples import Poison, backdoor, label_flip
from rolora.core.errors import BadInput, nearest


@dataclass(frozen=True)
class Attack:
    """What hostile clients do.

    Args:
        title: in words.
        poison: what becomes of their training examples; None: nothing.
        lie: what they send in place of the change that they trained; None: that itself.
        triggered: whether a phrase in a text is to give it a label.
    """

    title: str
    poison: Poison | None = None
    lie: Lie | None = None
    triggered: bool = False


ATTACKS: Mapping[str, Attack] = {
    "sign_flip": Attack("the change, turned around", lie=sign_flip),
    "scaled": Attack("the change, turned around and ten times as long", lie=scaled),
    "noise": Attack("noise, ten times as long as the honest changes", lie=noise),
    "alie": Attack("a little is enough (Baruch et al., 2019)", lie=alie),
    "inner_product": Attack("inner-product manipulation (Xie et al., 2020)", lie=inner_product),
    "label_flip": Attack("training on the labels in opposite order", poison=label_flip),
    "backdoor": Attack(
        "a phrase that makes one label of any text (Bagdasaryan et al., 2020)",
        poison=backdoor,
        lie=boosted,
        triggered=True,
    ),
}
"""By name. To add one: a function beside these, and one line here."""


def attack_named(name: str) -> Attack:
    """The attack called `name`.

    Raises:
        BadInput: no such attack; the known ones are listed.
    """
    if name not in ATTACKS:
        raise BadInput(f"--attack {name!r}: unknown attack{nearest(name, ATTACKS)}")
    return ATTACKS[name]


__all__ = ["ATTACKS", "Attack", "attack_named"]
