"""What is spent, against a second accountant; and the noise for a target."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import RDPAccountant
from scipy.stats import norm

from rolora.core.errors import BadInput
from rolora.privacy import accounting
from rolora.privacy.accounting import Accountant, noise_for

CASES = [(0.2, 1.0, 20), (1.0, 4.0, 20), (0.05, 0.8, 300), (0.5, 4.0, 100), (0.01, 1.1, 1000)]
"""Rate, noise, releases."""


@pytest.mark.parametrize(("rate", "noise", "releases"), CASES)
def test_epsilon_is_that_of_opacus(rate, noise, releases):
    theirs = RDPAccountant()
    theirs.history = [(noise, rate, releases)]
    ours = Accountant(rate, noise, 1e-5, "rdp").epsilon(releases)
    assert ours == pytest.approx(theirs.get_epsilon(1e-5), rel=0.01)


@pytest.mark.parametrize(("rate", "noise", "releases"), CASES)
def test_many_releases_spend_what_they_do_where_they_are_composed_at_once(rate, noise, releases):
    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    theirs = RdpAccountant().compose(event, releases).get_epsilon(1e-5)
    assert Accountant(rate, noise, 1e-5, "rdp").epsilon(releases) == theirs


def gaussian_delta(epsilon, mu):
    """Of a Gaussian mechanism with sensitivity ``mu`` deviations (Balle & Wang, ICML 2018,
    theorem 8).
    """
    low, high = norm.cdf(-epsilon / mu + mu / 2), norm.cdf(-epsilon / mu - mu / 2)
    return low - math.exp(epsilon) * high


@pytest.mark.parametrize(("noise", "releases"), [(1.0, 1), (4.0, 20), (10.0, 50)])
def test_without_sampling_it_is_the_gaussian_mechanisms_own(noise, releases):
    epsilon = Accountant(1.0, noise, 1e-5).epsilon(releases)
    assert gaussian_delta(epsilon, releases**0.5 / noise) == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize(("rate", "noise", "releases"), CASES)
def test_loss_distributions_never_count_more(rate, noise, releases):
    tight, wide = (Accountant(rate, noise, 1e-5, kind).epsilon(releases) for kind in ("pld", "rdp"))
    assert 0.7 * wide < tight <= wide


def test_no_noise_hides_nothing_and_no_release_spends_nothing():
    assert Accountant(0.5, 0.0, 1e-5).epsilon(3) == math.inf
    assert Accountant(0.5, 0.0, 1e-5).epsilon(0) == 0.0


@pytest.mark.parametrize("kind", ["rdp", "pld"])
@pytest.mark.parametrize(("target", "rate", "releases"), [(1.0, 0.3, 20), (2.0, 1.0, 8)])
def test_the_noise_for_a_target_keeps_to_it_and_hardly_less_would(target, rate, releases, kind):
    noise = noise_for(target, 1e-5, rate, releases, kind)
    assert Accountant(rate, noise, 1e-5, kind).epsilon(releases) <= target
    assert Accountant(rate, noise - 0.002, 1e-5, kind).epsilon(releases) > target
    assert noise <= noise_for(target, 1e-5, rate, releases, "rdp")


def test_a_target_that_hardly_needs_noise_gets_the_least():
    assert noise_for(1e4, 1e-5, 1.0, 1, "rdp") == accounting.BOUNDS[0]


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(BadInput, match=r"privacy.target_epsilon = 1e-09: no noise below 10000"):
        noise_for(1e-9, 1e-9, 1.0, 10**6, "rdp")


def test_without_the_package_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    with pytest.raises(BadInput, match=r"pip install 'rolora\[privacy\]'"):
        accounting.library()
