"""Frozen linear layers through oneDNN: the same products, gradients for the input alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import small
from rolora.model.frozen_linear import FrozenLinear, speed_up_frozen_linears
from rolora.model.lora import StackedLoRA

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(d_in, d_out, bias, seed=0):
    layer = nn.Linear(d_in, d_out, bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(seed, *parameter.shape))
    return layer.requires_grad_(False)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_products_and_gradients_are_those_of_linear(leading, d_in, d_out, bias, strided, seed):
    plain = linear(d_in, d_out, bias, seed)
    fast = FrozenLinear(plain)
    x = draw(seed + 1, *leading, 2 * d_in)[..., ::2] if strided else draw(seed + 1, *leading, d_in)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    y, expected = fast(ours), plain(theirs)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-4)
    direction = draw(seed + 2, *y.shape)
    y.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-4)
    assert plain.weight.grad is None
    with torch.no_grad():
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-4)


def test_error_is_that_of_float32():
    layer, x = linear(768, 3072, True), draw(1, 100, 768)
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert (FrozenLinear(layer)(x) - exact).norm() < 2e-6 * exact.norm()


def test_layers_are_replaced_by_name_and_share_their_weights():
    net = small.Net().requires_grad_(False)
    before = dict(net.named_parameters())
    speed_up_frozen_linears(net)
    assert [type(net.get_submodule(name)) for name in ("wide", "square", "score")] == [
        FrozenLinear
    ] * 3
    after = dict(net.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_other_layers_are_left_alone():
    net = nn.ModuleDict({"short": nn.Linear(3, 4).bfloat16(), "norm": nn.LayerNorm(3)})
    speed_up_frozen_linears(net.requires_grad_(False))
    assert type(net["short"]) is nn.Linear


def test_a_twin_shares_the_weights():
    model = small.net_model()
    for name, layer in model.twin().layers.items():
        original = model.layers[name]
        assert isinstance(layer, StackedLoRA)
        assert layer.base is not original.base
        assert layer.base.weight is original.base.weight
    assert type(model.layers["wide"].base) is FrozenLinear
