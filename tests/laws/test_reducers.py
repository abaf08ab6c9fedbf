"""Laws of every reducer, and what each claims for itself."""

import importlib
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rolora.config import parse_config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.types import EMPTY, Adapter, Failure, Update
from rolora.reducers import REDUCERS, ReducerOptions, make_reducer, reducer_named
from rolora.reducers.gathered import ByzantineOptions, Withstanding
from rolora.reducers.geometric_median import GeometricMedian
from rolora.reducers.krum import Krum, MultiKrum
from rolora.reducers.neighbour_mixing import THEN, NeighbourMixing
from rolora.reducers.norm_bound import NormBound
from rolora.reducers.trimmed_mean import TrimmedMean
from small import checked, config, engine, run

every_reducer = pytest.mark.parametrize("name", REDUCERS)
robust = pytest.mark.parametrize("name", sorted(REDUCERS.keys() - {"mean"}))
withstanding = pytest.mark.parametrize(
    "name", [name for name, kind in REDUCERS.items() if issubclass(kind, Withstanding)]
)
seeds = st.integers(0, 2**32)
few = settings(max_examples=20)


def updates(n, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Update(
            client=i,
            num_examples=3 + 5 * i,
            parts=Adapter.of(
                {
                    ("m", "B"): scale * torch.randn(4, 2, generator=generator),
                    ("n", "B"): scale * torch.randn(3, 2, generator=generator),
                }
            ),
        )
        for i in range(n)
    ]


def options(name, **more):
    return reducer_named(name).Options(name=name, **more)


def reduced(name, given, clients=None):
    return make_reducer(options(name), clients or len(given)).reduce(given)


def matrix(given):
    return np.stack([update.parts.flat.double().numpy() for update in given])


@every_reducer
@few
@given(st.sampled_from([5, 7, 8, 10]), seeds)
def test_identical_updates_reduce_to_themselves(name, n, seed):
    (one,) = updates(1, seed)
    result = reduced(name, [replace(one, client=i, num_examples=1 + i) for i in range(n)])
    assert result.clients == n
    torch.testing.assert_close(result.parts.flat, one.parts.flat, rtol=1e-6, atol=1e-6)


@every_reducer
@few
@given(st.permutations(range(7)))
def test_the_order_does_not_matter(name, order):
    given = updates(7)
    one, other = reduced(name, given), reduced(name, [given[i] for i in order])
    torch.testing.assert_close(one.parts.flat, other.parts.flat, rtol=0, atol=1e-5)
    assert name == "mean" or torch.equal(one.parts.flat, other.parts.flat)


@every_reducer
def test_updates_are_not_changed_and_layouts_must_agree(name):
    given = updates(5)
    before = [update.parts.flat.clone() for update in given]
    reduced(name, given)
    assert all(torch.equal(u.parts.flat, b) for u, b in zip(given, before, strict=True))
    other = replace(given[1], parts=given[1].parts.select(set()))
    with pytest.raises(ValueError, match="different layouts"):
        reduced(name, [given[0], other], 10)
    with pytest.raises(ValueError, match="no updates"):
        make_reducer(options(name), 10).result()


def test_the_mean_is_numpys_and_takes_constant_memory():
    given = updates(7)
    rows = np.stack([update.parts.flat.double().numpy() for update in given])
    weights = [update.num_examples for update in given]
    expected = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(reduced("mean", given).parts.flat, expected, atol=1e-6)
    even = reduced("mean", [replace(update, weight=1.0) for update in given])
    np.testing.assert_allclose(even.parts.flat, rows.mean(0), atol=1e-6)
    reducer = make_reducer(options("mean"), 7)
    for update in given:
        reducer.add(update)
    held = [value for value in vars(reducer).values() if isinstance(value, torch.Tensor)]
    assert [tensor.numel() for tensor in held] == [given[0].parts.layout.size]


@given(st.integers(1, 8), st.integers(0, 2**32))
def test_the_median_is_numpys(n, seed):
    given = updates(n, seed)
    rows = np.stack([update.parts.flat.numpy() for update in given])
    np.testing.assert_array_equal(reduced("median", given).parts.flat, np.median(rows, axis=0))


LIES = st.sampled_from([-3e38, -1e4, 0.0, 1e4, 3e38])


def liars_among(honest, liars, value):
    """`liars` updates more, before the others, each all of one value and of many examples."""
    lie = torch.full_like(honest[0].parts.flat, value)
    parts = Adapter(honest[0].parts.layout, lie)
    lies = [
        replace(honest[0], client=-1 - i, num_examples=10**9, parts=parts) for i in range(liars)
    ]
    return [*lies, *honest]


@given(st.integers(1, 4), LIES, seeds)
def test_no_minority_moves_the_median_out_of_the_others_range(liars, value, seed):
    honest = updates(liars + 1, seed)
    median = reduced("median", liars_among(honest, liars, value)).parts.flat
    rows = torch.stack([update.parts.flat for update in honest])
    assert (median >= rows.amin(0)).all()
    assert (median <= rows.amax(0)).all()


@robust
@few
@given(st.integers(1, 2), LIES, seeds)
def test_a_robust_reducer_stays_with_the_honest(name, liars, value, seed):
    """Two of ten lie, as far as float32 goes: the result is finite and no further from the honest
    ones' mean than a few times what they are apart. Mean: see the next.
    """
    honest = updates(8, seed)
    result = reduced(name, liars_among(honest, liars, value), 10).parts.flat
    rows = torch.stack([update.parts.flat for update in honest])
    apart = torch.cdist(rows, rows).max()
    assert (result - rows.mean(0)).norm() <= 2 * apart
    if abs(value) > 1:
        mean = reduced("mean", liars_among(honest, liars, value)).parts.flat
        assert not (mean - rows.mean(0)).norm() <= 100 * apart


@every_reducer
def test_weights_count_where_it_says_so(name):
    given = updates(7)
    uniform = [replace(update, weight=1.0) for update in given]
    same = torch.equal(reduced(name, given).parts.flat, reduced(name, uniform).parts.flat)
    assert same != REDUCERS[name].weighted


# --- held against the papers' definitions, and against byzfl -------------------------------------


def krum_scores(rows, f):
    """Blanchard et al., section 4, word by word."""
    n = len(rows)
    return [
        sum(sorted(((rows[i] - rows[j]) ** 2).sum() for j in range(n) if j != i)[: n - f - 2])
        for i in range(n)
    ]


def mixed(rows, f):
    """Allouah et al., Algorithm 2."""
    near = [sorted(rows, key=lambda x, z=z: ((x - z) ** 2).sum())[: len(rows) - f] for z in rows]
    return np.stack([np.mean(group, axis=0) for group in near])


def references(rows, f):
    n = len(rows)
    ranked = sorted(range(n), key=lambda i: krum_scores(rows, f)[i])
    trimmed = np.stack([np.mean(sorted(column)[f : n - f]) for column in rows.T])
    return {
        "trimmed_mean": trimmed,
        "krum": rows[ranked[0]],
        "multi_krum": rows[ranked[: n - f]].mean(0),
    }


RULES = {"trimmed_mean": TrimmedMean, "krum": Krum, "multi_krum": MultiKrum}
sizes = st.integers(0, 3).flatmap(lambda f: st.tuples(st.just(f), st.integers(2 * f + 3, 12)))


@few
@given(sizes, seeds)
def test_rules_are_those_of_the_papers(size, seed):
    f, n = size
    given = updates(n, seed)
    for name, expected in references(matrix(given), f).items():
        ours = RULES[name](f).reduce(given).parts.flat
        np.testing.assert_allclose(ours, expected, atol=1e-6, err_msg=name)
        ours = NeighbourMixing(f, THEN[name](f)).reduce(given).parts.flat
        expected = references(mixed(matrix(given), f), f)[name]
        if name == "trimmed_mean":  # mixed rows may be the same, and then Krum's ranks are ties
            np.testing.assert_allclose(ours, expected, atol=1e-6, err_msg=f"mixed, {name}")


@few
@given(st.integers(3, 12), seeds)
def test_no_point_has_a_lesser_sum_of_distances_than_the_geometric_median(n, seed):
    given = updates(n, seed)
    rows, ours = matrix(given), GeometricMedian().reduce(given).parts.flat.double().numpy()

    def total(point):
        return np.linalg.norm(rows - point, axis=1).sum()

    apart = [(row - ours) / max(np.linalg.norm(row - ours), 1e-12) for row in rows]
    if min(np.linalg.norm(rows - ours, axis=1)) > 1e-3:  # else it is an update itself
        assert np.linalg.norm(np.sum(apart, axis=0)) < 1e-3
    for other in (*rows, rows.mean(0), np.median(rows, axis=0)):
        assert total(ours) <= total(other) + 1e-5


@few
@given(st.integers(2, 9), st.floats(1, 50), seeds)
def test_norm_bounding_cuts_the_changes_to_their_median_length(n, scale, seed):
    given = updates(n, seed)
    (start,) = updates(1, seed + 1)
    long = given[0].parts
    far = Adapter(long.layout, start.parts.flat + scale * (long.flat - start.parts.flat))
    given[0] = replace(given[0], parts=far)
    changes = matrix(given) - start.parts.flat.double().numpy()
    lengths = np.linalg.norm(changes, axis=1)
    cut = changes * np.minimum(1, sorted(lengths)[(n - 1) // 2] / lengths)[:, None]
    expected = np.average(cut, axis=0, weights=[update.num_examples for update in given])
    ours = NormBound(start.parts).reduce(given).parts.flat - start.parts.flat
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.fixture(scope="module")
def byzfl():
    """Its rules alone: what its own ``__init__`` loads beside them is large, and not needed."""
    found = find_spec("byzfl")
    if found is None:
        pytest.skip("needs byzfl: pip install --no-deps byzfl==0.0.11")
    package = ModuleType("byzfl")
    package.__path__ = found.submodule_search_locations
    sys.modules["byzfl"] = package
    yield importlib.import_module("byzfl.aggregators")
    for name in [name for name in sys.modules if name.partition(".")[0] == "byzfl"]:
        del sys.modules[name]


@few
@given(sizes, seeds)
def test_rules_are_byzfls(byzfl, size, seed):
    """byzfl's Krum sums over one neighbour more than the paper's: its f is ours and one."""
    f, n = size
    given = updates(n, seed)
    rows = matrix(given)
    exact = byzfl.GeometricMedian(nu=1e-6, T=300)
    theirs = {
        TrimmedMean(f): byzfl.TrMean(f)(rows),
        make_reducer(options("median"), n): byzfl.Median()(rows),
        Krum(f): byzfl.Krum(f + 1)(rows),
        NeighbourMixing(f, TrimmedMean(f)): byzfl.TrMean(f)(byzfl.NNM(f)(rows)),
        GeometricMedian(): exact(rows),
    }
    for ours, expected in theirs.items():
        near = 1e-3 if isinstance(ours, GeometricMedian) else 1e-6
        np.testing.assert_allclose(
            ours.reduce(given).parts.flat, expected, atol=near, err_msg=ours.title
        )
    lengths = np.linalg.norm(rows, axis=1)
    clipped = byzfl.Clipping(c=float(sorted(lengths)[(n - 1) // 2]))(rows)
    uniform = [replace(update, weight=1.0) for update in given]
    np.testing.assert_allclose(
        NormBound(EMPTY).reduce(uniform).parts.flat, clipped.mean(0), atol=1e-6
    )


# --- what is refused -----------------------------------------------------------------------------


def test_a_share_is_that_of_the_clients_asked_rounded_up():
    counts = [ByzantineOptions(byzantine=0.2).among(n) for n in (1, 5, 6, 10, 11)]
    assert counts == [1, 1, 2, 2, 3]
    assert ByzantineOptions(byzantine=0.1).among(30) == 3
    assert all(a <= b for a, b in pairwise(counts))


@withstanding
def test_too_few_clients_are_refused_by_name(name):
    least = make_reducer(options(name), 20).least
    assert least == (11 if "krum" in name else 9)
    crowd = {"clients": 6}
    with pytest.raises(BadInput, match=rf"server.reducer.*'name': '{name}'.*at least .* and 6 are"):
        checked(config(federation=crowd, server={"reducer": {"name": name, "byzantine": 0.45}}))
    with pytest.raises(ValueError, match="no updates"):
        make_reducer(options(name), 20).reduce(updates(least - 1))


def test_a_round_of_fewer_updates_than_the_rule_needs_is_none(monkeypatch):
    settings = config(federation={"clients": 7}, server={"reducer": "krum"})
    clients = engine(settings, sizes=[6] * 7)
    train = clients.train

    def one_fails(plans):
        for answer in train(plans):
            yield Failure(0, "absent") if answer.client == 0 else answer

    monkeypatch.setattr(clients, "train", one_fails)
    with pytest.raises(RunFailed, match=r"7 updates with server.reducer krum, was lost"):
        run(settings, clients)


@pytest.mark.parametrize("method", ["flexlora", "flora", "fedex_lora", "scaffold"])
@robust
def test_a_method_that_needs_each_clients_product_takes_no_robust_reducer(method, name):
    with pytest.raises(BadInput, match=rf"server.reducer = '{name}'.*use mean"):
        checked(config(method=method, federation={"clients": 20}, server={"reducer": name}))


def test_what_is_wrong_with_a_reducer_is_told_in_its_place():
    for wrong, message in {
        "meadian": r"server.reducer.*'meadian': unknown reducer.*did you mean median",
        3: r"server.reducer.*3: unknown reducer",
        '{"name": "krum", "f": 2}': r"server.reducer.f: unknown key",
        '{"name": "krum", "byzantine": 0.5}': r"server.reducer.byzantine = 0.5.*less than 0.5",
        '{"name": "neighbour_mixing", "then": "krumm"}': r"server.reducer.then = 'krumm'.*krum",
    }.items():
        raw = json.loads(wrong) if str(wrong).startswith("{") else wrong
        with pytest.raises(BadInput, match=message):
            config(server={"reducer": raw})
    with pytest.raises(BadInput, match=r"server.reducer = 'meadian'.*did you mean median"):
        reducer_named("meadian")


@every_reducer
def test_a_reducer_survives_being_written_down(name):
    whole = config(server={"reducer": name})
    written = whole.model_dump(mode="json")
    assert parse_config(written) == whole
    alone = REDUCERS[name].Options is ReducerOptions
    assert written["server"]["reducer"] == (name if alone else options(name).model_dump())
