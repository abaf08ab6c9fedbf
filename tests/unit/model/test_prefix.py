"""The cache of frozen activations: it changes nothing, whichever batch filled it."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import small
from rolora.model.loading import load_pretrained
from rolora.model.lora import LoraModel
from rolora.model.prefix import ActivationCache, FrozenPrefix

UPPER = {
    "bert": ["bert.encoder.layer.2.attention.self.query", "bert.encoder.layer.1.output.dense"],
    "roberta": ["roberta.encoder.layer.2.attention.self.value"],
    "distilbert": ["distilbert.transformer.layer.2.attention.q_lin"],
    "llama": ["model.layers.1.self_attn.q_proj"],
}
DATA = small.text_examples(30, longest=14)


def model_of(model_dir, architecture, cache_bytes, targets=None, dropout_p=0.0):
    chosen = small.config(model={"name": str(model_dir(architecture))})
    loaded = load_pretrained(chosen.model, ("no", "yes"), seed=0)
    targets = targets or UPPER[architecture]
    model = LoraModel(loaded.module, targets, loaded.head, dropout_p, cache_bytes=cache_bytes)
    adapter = model.initial_adapter(2, 0)
    generator = torch.Generator().manual_seed(1)
    lively = {key: torch.randn(t.shape, generator=generator) for key, t in adapter.items()}
    model.mount({key: t[None] for key, t in lively.items()}, [2.0])
    return model


def logits(model, rows, cached=True, data=DATA):
    rows = torch.as_tensor(rows)
    with torch.no_grad():
        return model.logits(data.batch(rows), data.keys(rows) if cached else None)


@pytest.mark.parametrize("architecture", UPPER)
def test_with_and_without_the_cache_logits_are_the_same(model_dir, architecture):
    plain = model_of(model_dir, architecture, 0)
    cached = model_of(model_dir, architecture, 2**20)
    assert plain.prefix is None
    assert cached.prefix is not None
    for rows in ([0, 1, 2], [2, 5, 0], list(range(30)), [7], [7, 7]):
        expected = logits(plain, rows)
        torch.testing.assert_close(logits(cached, rows), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(logits(cached, rows, False), expected, rtol=0, atol=1e-5)


batches = st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=8), max_size=5)


@pytest.fixture(scope="module")
def filled(model_dir):
    """Models with a roomy and a tight cache, and every row's logits from a cache just filled."""
    models = {size: model_of(model_dir, "bert", size) for size in (2**20, 6000)}
    first = {}
    for rows in ([3], [4, 9, 11], [0, 29, 28, 27, 26]):
        fresh = model_of(model_dir, "bert", 2**20)
        first[tuple(rows)] = logits(fresh, rows)
    return models, first


@hypothesis_settings(max_examples=40)
@given(batches)
def test_bits_do_not_depend_on_which_batch_filled_the_cache_or_on_eviction(filled, before):
    models, first = filled
    for model in models.values():
        model.prefix.cache.held.clear()
        model.prefix.cache.size = 0
        for rows in before:
            logits(model, rows)
        for rows, expected in first.items():
            assert torch.equal(logits(model, list(rows)), expected)


def test_what_is_cached_is_not_computed_again(model_dir):
    model = model_of(model_dir, "bert", 2**20)
    calls = []
    model.prefix.layers[0].register_forward_hook(lambda *_: calls.append(1))
    logits(model, [1, 2, 3])
    logits(model, [3, 2, 4])
    assert len(calls) == 4
    keys = DATA.keys(torch.tensor([1, 2, 3, 4]))
    assert set(model.prefix.cache.held) == set(keys)
    held = sum(t.nbytes for t in model.prefix.cache.held.values())
    assert model.prefix.cache.size == held
    assert model.prefix.cache.held[keys[0]].shape == (DATA.lengths[1], 32)


def test_rows_of_other_data_are_not_taken_for_those_that_are_held(model_dir):
    """The same numbers in another split or task stand for other examples."""
    model, other = model_of(model_dir, "bert", 2**20), small.text_examples(30, seed=1, longest=14)
    logits(model, [1, 2, 3])
    found = logits(model, [1, 2, 3], data=other)
    expected = logits(model, [1, 2, 3], cached=False, data=other)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert len(model.prefix.cache.held) == 6


def test_the_same_data_loaded_again_find_what_is_held(model_dir):
    model = model_of(model_dir, "bert", 2**20)
    logits(model, [1, 2, 3])
    logits(model, [1, 2, 3], data=small.text_examples(30, longest=14))
    assert len(model.prefix.cache.held) == 3


def test_the_rows_of_one_call_are_not_those_of_the_next(model_dir):
    model = model_of(model_dir, "bert", 2**20)
    with pytest.raises(IndexError):
        model.logits({"input_ids": torch.full((1, 3), 10**6)}, ["x"])
    assert model.prefix.rows is None
    logits(model, [1])
    model.module(**DATA.batch(torch.tensor([2, 3, 4])))
    assert len(model.prefix.cache.held) == 1


def test_what_gives_no_rows_passes_by_the_cache(model_dir):
    model = model_of(model_dir, "bert", 2**20)
    logits(model, [1, 2], cached=False)
    assert not model.prefix.cache.held


def test_twins_share_the_cache(model_dir):
    model = model_of(model_dir, "bert", 2**20)
    twin = model.twin()
    assert twin.prefix is not model.prefix
    assert twin.prefix.cache is model.prefix.cache
    assert twin.module.bert.encoder.layer[0] is twin.prefix
    assert torch.equal(logits(model, [1, 2]), logits(twin, [1, 2]))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=40))
def test_the_cache_drops_the_longest_unused_and_keeps_its_bound(uses):
    cache, used, lengths = ActivationCache(capacity=160), [], {}
    for row, length in uses:
        length = lengths.setdefault(row, length)
        if cache.get(row) is None:
            cache.put(row, torch.full((length,), float(row)))
        used = [r for r in used if r != row] + [row]
        kept = []
        for r in reversed(used):
            if kept and 4 * (sum(lengths[k] for k in kept) + lengths[r]) > 160:
                break
            kept.append(r)
        assert list(cache.held) == kept[::-1]
        used = kept[::-1]
        assert cache.size == 4 * sum(lengths[k] for k in kept)
        assert cache.size <= 160
        assert (cache.get(row) == row).all()


def test_holding_a_row_twice_counts_it_once():
    cache = ActivationCache(100)
    cache.put(1, torch.zeros(4))
    cache.put(1, torch.zeros(4))
    assert cache.size == 16


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("bert", ["bert.encoder.layer.0.attention.self.query"]),  # nothing lies below
        ("bert", ["bert.pooler.dense"]),  # no numbered layer
        ("bert", ["bert.pooler.dense", "bert.encoder.layer.2.attention.self.query"]),
        ("modernbert", ["model.layers.2.attn.Wqkv"]),  # its layers need rotary embeddings
    ],
)
def test_where_there_is_nothing_to_cache_there_is_no_cache(model_dir, architecture, targets):
    model = model_of(model_dir, architecture, 2**20, targets)
    assert model.prefix is None
    torch.testing.assert_close(
        logits(model, [1, 2]), logits(model_of(model_dir, architecture, 0, targets), [1, 2])
    )


def test_a_net_without_numbered_layers_has_no_cache():
    assert FrozenPrefix.install(small.Net(), small.TARGETS, 2**20) is None


def test_dropout_does_not_reach_what_is_cached(model_dir):
    """It acts on inputs of A alone, and all of those lie above."""
    plain, cached = (model_of(model_dir, "bert", size, dropout_p=0.3) for size in (0, 2**20))
    rows = torch.arange(6)
    for seed in (1, 1, 2):
        streams = torch.arange(6) + 1000 * seed
        expected = plain.logits(DATA.batch(rows), None, streams)
        found = cached.logits(DATA.batch(rows), DATA.keys(rows), streams)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert len(cached.prefix.cache.held) == 6
    assert (expected - plain.logits(DATA.batch(rows))).abs().max() > 1e-3
