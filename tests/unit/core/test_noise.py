"""Draws of a key: the same again with it, like any others without."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rolora.core.noise import KEPT, Noise, SecretNoise, own_noise, seeded

NOISE = seeded(7)


def test_draws_are_a_function_of_key_and_names():
    a = NOISE.gaussian(50, "noise", 3)
    assert torch.equal(a, seeded(7).gaussian(50, "noise", 3))
    for other in (seeded(8).gaussian(50, "noise", 3), NOISE.gaussian(50, "noise", 4)):
        assert not torch.equal(a, other)
    assert torch.equal(NOISE.gaussian(20, "noise", 3), a[:20])


def test_uniform_draws_are_uniform_and_never_the_ends():
    drawn = NOISE.uniform(100_000, "u")
    assert 0.0 < drawn.min() < drawn.max() < 1.0
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    ends = np.array([0, 2**64 - 1], dtype="<u8") >> 12  # the smallest and the largest
    assert ((ends + 0.5) / 2.0**52 == [2.0**-53, 1 - 2.0**-53]).all()


def test_gaussian_draws_are_standard_normal():
    drawn = NOISE.gaussian(100_000, "g")
    assert drawn.dtype == torch.float64
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3
    assert abs(float(drawn.var()) - 1.0) < 4.5 * (2 / 100_000) ** 0.5


def test_one_noise_never_hides_two_values():
    secret, values = SecretNoise(b"k" * 32), torch.ones(4)
    names = secret.over(values, "noise", 1)
    assert secret.over(values.clone(), "noise", 1) == names
    other = secret.over(values * 2, "noise", 1)
    assert not torch.equal(secret.gaussian(4, *names), secret.gaussian(4, *other))
    assert Noise(b"k" * 32).over(values, "noise", 1) == ("noise", 1)


@given(st.integers(0, 100))
def test_a_client_draws_its_key_once_and_keeps_it(client):
    first, kept = own_noise(None, client, {})
    again, still = own_noise(None, client, kept)
    assert first == again
    assert torch.equal(kept[KEPT], still[KEPT])
    assert own_noise(None, client, {})[0] != first
    assert own_noise(5, client, {}) == (seeded(5, "client", client), {})
