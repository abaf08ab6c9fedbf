"""The accountant: epsilon of a number of releases, and the noise for a target.

A release is a Gaussian mechanism on a Poisson sample: each unit takes part with probability `rate`
and moves the sum by at most 1, to which noise of standard deviation `noise` is added. Neighbours
differ in one unit, whose contribution is zero in one of the two: the numbers are those of adding or
removing a unit. Computed by Google's ``dp-accounting``, by privacy loss distributions (Koskela et
al., AISTATS 2020; Doroshenko et al., PoPETs 2022) or by Renyi differential privacy (Mironov, CSF
2017; Mironov et al., 2019, arXiv 1908.10530).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import numpy as np

from rolora.core.errors import BadInput
from rolora.core.quiet import quiet

Kind = Literal["pld", "rdp"]
DIGITS = 1000
"""A solved noise is rounded up to so many parts of one."""
BOUNDS = (0.1, 1e4)
"""Noise for which it is looked."""


def library() -> ModuleType:
    """The package that counts.

    Raises:
        BadInput: it is not installed.
    """
    try:
        with quiet():
            import dp_accounting.pld
            import dp_accounting.rdp
    except ImportError as error:
        raise BadInput(
            f"privacy: what is spent is counted by the package {error.name or 'dp_accounting'}, "
            "which is not installed; pip install 'rolora[privacy]'"
        ) from None
    return dp_accounting


@dataclass(frozen=True)
class Accountant:
    """What a number of releases spend.

    Args:
        rate: with which a unit takes part in a release, in (0, 1].
        noise: standard deviation by sensitivity; 0: nothing is hidden.
        delta: at which epsilon is told.
        kind: how it is counted.
    """

    rate: float
    noise: float
    delta: float
    kind: Kind = "pld"

    def epsilon(self, releases: int) -> float:
        """Of so many releases together; inf without noise."""
        return _epsilon(self.rate, self.noise, self.delta, self.kind, releases)


@lru_cache(maxsize=4096)
def _epsilon(rate: float, noise: float, delta: float, kind: Kind, releases: int) -> float:
    if releases == 0:
        return 0.0
    if noise == 0.0:
        return math.inf
    package = library()
    with quiet():
        if kind == "rdp":
            orders, spent = _curve(rate, noise)
            return float(package.rdp.compute_epsilon(orders, releases * spent, delta)[0])
        return float(_fresh(kind).compose(_event(rate, noise), releases).get_epsilon(delta))


@lru_cache(maxsize=64)
def _curve(rate: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Orders, and what one release spends at each; several spend as many times that."""
    one = _fresh("rdp").compose(_event(rate, noise))
    return one.orders, one.rdp


@lru_cache(maxsize=4096)
def noise_for(epsilon: float, delta: float, rate: float, releases: int, kind: Kind) -> float:
    """The least noise, to three digits behind the point, with which so many releases spend no more
    than `epsilon`.

    Raises:
        BadInput: none that is of use does.
    """
    least, most = BOUNDS
    if Accountant(rate, least, delta, "rdp").epsilon(releases) <= epsilon:
        return least
    if Accountant(rate, most, delta, kind).epsilon(releases) > epsilon:
        raise BadInput(
            f"privacy.target_epsilon = {epsilon:g}: no noise below {most:g} keeps {releases} "
            f"releases to it at delta {delta:g}; allow more, or take fewer rounds"
        )
    if kind == "pld":  # which never counts more than the other one, and takes longer
        most = noise_for(epsilon, delta, rate, releases, "rdp")
        near = Accountant(rate, 0.9 * most, delta, kind)
        least = (0.9 if near.epsilon(releases) > epsilon else 0.5) * most
    package = library()
    with quiet():
        found = package.calibrate_dp_mechanism(
            lambda: _fresh(kind),
            lambda noise: package.SelfComposedDpEvent(_event(rate, noise), releases),
            epsilon,
            delta,
            package.ExplicitBracketInterval(least, most),
            tol=0.1 / DIGITS,
        )
    return math.ceil(round(found * DIGITS, 6)) / DIGITS


def _fresh(kind: Kind) -> Any:
    package = library()
    return package.pld.PLDAccountant() if kind == "pld" else package.rdp.RdpAccountant()


def _event(rate: float, noise: float) -> Any:
    package = library()
    gaussian = package.GaussianDpEvent(noise)
    return gaussian if rate == 1.0 else package.PoissonSampledDpEvent(rate, gaussian)
