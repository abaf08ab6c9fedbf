"""LoRA dropout: masks are right on average and a function of their names alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rolora.model.dropout import client_streams, dropped, layer_stream, row_streams

CPU = torch.device("cpu")
LAYER = layer_stream("encoder.layer.0.query")


def masks(seeds, places, tokens, features=10, p=0.5, step=0, layer=LAYER):
    """What becomes of ones ``[K, n, tokens, features]``."""
    streams = row_streams(client_streams(seeds, step, CPU), torch.as_tensor(places))
    shape = (len(seeds), len(places[0]), tokens, features)
    return dropped(torch.ones(shape).flatten(0, 1), p, streams, layer).view(shape)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_entries_are_dropped_as_often_as_asked_and_the_mean_stays(p):
    mask = masks([1, 2], [range(64)] * 2, 32, 250, p)
    n = mask.numel()
    assert float((mask == 0).double().mean()) == pytest.approx(p, abs=4 * (p / n) ** 0.5 + 1e-5)
    assert float(mask.double().mean()) == pytest.approx(1, abs=4 * (p / (1 - p) / n) ** 0.5)
    assert len(mask.unique()) == 2
    for axis in range(4):  # no row, token or feature is favoured
        rates = (mask == 0).double().transpose(0, axis).flatten(1).mean(1)
        assert (rates - p).abs().max() < 5 * (p * len(rates) / n) ** 0.5 + 1e-5


def test_neighbours_have_nothing_to_do_with_each_other():
    kept = (masks([1, 2, 3, 4], [range(64)] * 4, 32, 128) > 0).double() - 0.5
    for axis in range(4):
        n = kept.shape[axis]
        pairs = kept.narrow(axis, 0, n - 1) * kept.narrow(axis, 1, n - 1)
        assert abs(float(pairs.mean()) * 4) < 5 / pairs.numel() ** 0.5


@pytest.mark.parametrize("p", [0.0, 1e-6])
def test_next_to_nothing_is_nothing(p):
    assert (masks([1], [[0, 1]], 3, p=p) == 1).all()


def test_almost_everything_leaves_numbers():
    assert masks([1], [range(50)], 40, 100, p=0.9999999).isfinite().all()


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 13),
    st.data(),
)
def test_a_mask_knows_nothing_of_what_else_is_in_the_batch(seeds, n, tokens, features, data):
    whole = masks(seeds, [range(n)] * len(seeds), tokens, features)
    k = data.draw(st.integers(0, len(seeds) - 1))
    order = data.draw(st.permutations(range(n)))
    fewer = data.draw(st.integers(1, tokens))
    alone = masks([seeds[k]], [order], fewer, features)
    assert torch.equal(alone[0], whole[k, list(order), :fewer])
    assert torch.equal(masks(seeds[::-1], [range(n)] * len(seeds), tokens, features), whole.flip(0))


def test_tokens_may_lie_flat():
    streams = row_streams(client_streams([1], 0, CPU), torch.arange(4)[None])
    x = torch.ones(4, 5, 6)
    flat = dropped(x.view(20, 6), 0.5, streams, LAYER)
    assert torch.equal(flat.view(4, 5, 6), dropped(x, 0.5, streams, LAYER))


def test_seed_step_place_and_layer_each_have_masks_of_their_own():
    drawn = [
        masks([1], [[0]], 8),
        masks([2], [[0]], 8),
        masks([1], [[1]], 8),
        masks([1], [[0]], 8, step=1),
        masks([1], [[0]], 8, layer=layer_stream("encoder.layer.1.query")),
    ]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert 20 < int((one != other).sum()) < 60  # of 80


def test_what_is_dropped_gets_no_gradient():
    x = torch.randn(6, 5, 7, requires_grad=True)
    streams = row_streams(client_streams([3], 0, CPU), torch.arange(6)[None])
    y = dropped(x, 0.5, streams, LAYER)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}


def test_half_precision_stays_half():
    streams = row_streams(client_streams([3], 0, CPU), torch.arange(2)[None])
    assert dropped(torch.ones(2, 3, dtype=torch.bfloat16), 0.5, streams, LAYER).dtype == (
        torch.bfloat16
    )
