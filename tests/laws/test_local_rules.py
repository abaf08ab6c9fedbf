"""What clients of FedRot-LoRA and LA-LoRA do beside plain training, and bugs known of others'
implementations, none of which may come back here.
"""

from types import SimpleNamespace

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.ndimage import fourier_gaussian

import small
from rolora.core.algebra import procrustes
from rolora.core.errors import BadInput
from rolora.core.rules import Trained
from rolora.core.types import Adapter, Update
from rolora.methods.fedrot_lora import Turn, turned
from rolora.methods.la_lora import smoothed

SIZES = (9, 5, 7)


def uploads(rounds, **sections):
    """Every client's update of the last of `rounds`, the state before, and the state after."""
    settings = small.config(rounds=rounds, **sections)
    engine = small.engine(settings, sizes=SIZES)
    train, seen = engine.train, {}

    def watching(plans):
        for update in train(plans):
            seen[update.client] = update.parts.clone()
            yield update

    engine.train = watching
    state, record = small.run(settings, engine)
    return seen, record.states[-2][0] if rounds > 1 else None, state


def product(parts, module):
    return parts[module, "B"].double() @ parts[module, "A"].double()


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotation(r, seed):
    return torch.linalg.qr(drawn(r, r, seed=seed)).Q


# FedRot-LoRA -------------------------------------------------------------------------------


def test_procrustes_is_scipys():
    X, Y = drawn(20, 4), drawn(20, 4, seed=1)
    expected = torch.from_numpy(orthogonal_procrustes(X.numpy(), Y.numpy())[0])
    torch.testing.assert_close(procrustes(X, Y), expected, rtol=0, atol=1e-12)


def test_a_part_of_the_way_is_between_and_never_a_reflection():
    X = drawn(20, 4)
    for seed in range(6):
        Y = X @ rotation(4, seed)
        distances = [float((X @ procrustes(X, Y, share) - Y).norm()) for share in (0.0, 0.3, 0.6)]
        assert distances == sorted(distances, reverse=True)
        R = procrustes(X, Y, 0.5)
        torch.testing.assert_close(R @ R.T, torch.eye(4).double(), rtol=0, atol=1e-12)
        assert torch.linalg.det(R) > 0
    torch.testing.assert_close(procrustes(X, Y, 0.0), torch.eye(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_fedrot_client_uploads_fedits_product_turned_towards_the_global_factor(number):
    """A in even rounds, B in odd ones, and not at all in round 1."""
    _, before, _ = uploads(number, method={"name": "fedrot_lora"})
    settings = small.config(rounds=number, method={"name": "fedrot_lora"})
    plain = small.config(rounds=number, method={"name": "fedit"})
    initial = small.net_model().initial_adapter(2, 0)
    for client in range(len(SIZES)):
        start = small.method(plain).init(initial) if before is None else before
        own, untouched = (trained(each, start, client) for each in (settings, plain))
        if number == 1:
            assert torch.equal(own.flat, untouched.flat)
            continue
        along = "A" if number % 2 == 0 else "B"
        wanted = turned(untouched, start.parts, along)
        assert torch.equal(own.flat, wanted.flat)
        for module in small.TARGETS:
            torch.testing.assert_close(
                product(own, module), product(untouched, module), rtol=0, atol=1e-6
            )
            far, near = (
                (parts[module, along] - start.parts[module, along]).norm()
                for parts in (untouched, own)
            )
            assert near <= far + 1e-6


def trained(settings, state, client):
    """What one client uploads from a state."""
    engine = small.engine(settings, sizes=SIZES)
    plan = engine.method.plan(state, engine.clients[client])
    (update,) = engine.train([plan])
    return update.parts


def test_clients_that_learned_one_thing_in_other_bases_lose_nothing():
    B, A = drawn(6, 3, seed=1), drawn(3, 8, seed=2)
    start = Adapter.of({("m", "B"): B, ("m", "A"): A})
    job = SimpleNamespace(plan=SimpleNamespace(round=2), start=start)
    steps = Turn(1.0).steps(SimpleNamespace(jobs=[job]), None)
    mean = dict.fromkeys("AB", 0.0)
    for seed in range(4):
        R = rotation(3, seed)
        parts = Adapter.of({("m", "B"): B @ R, ("m", "A"): R.T @ A})
        sent = steps.finish(0, Trained(Update(0, 1, parts), parts))
        assert sent.parts is parts  # what stays with the client is in its own basis
        mean = {part: mean[part] + sent.update.parts["m", part].double() / 4 for part in "AB"}
    torch.testing.assert_close(mean["B"] @ mean["A"], B @ A, rtol=0, atol=1e-5)


def test_without_rotation_fedrot_is_fedit_to_the_bit():
    _, _, plain = uploads(4, method={"name": "fedit"})
    _, _, state = uploads(4, method={"name": "fedrot_lora", "rotation": 0.0})
    _, _, other = uploads(4, method={"name": "fedrot_lora"})
    assert torch.equal(plain.parts.flat, state.parts.flat)
    assert not torch.equal(plain.parts.flat, other.parts.flat)


def test_moments_that_stay_in_the_clients_basis_are_refused():
    with pytest.raises(BadInput, match=r"optimizer.state = 'persist'.*FedRot.*transport"):
        small.checked(small.config(method={"name": "fedrot_lora"}, optimizer={"state": "persist"}))


# LA-LoRA -----------------------------------------------------------------------------------

LIVELY = {"lr": 0.05, "eps": 1e-3, "weight_decay": 0.1, "batch_size": 4, "max_grad_norm": 0.01}


def test_la_lora_moves_b_then_a_and_lets_the_other_rest():
    """Momentum and decay move nothing that rests, and a bound of the norm is that of what moves."""
    la, _, _ = uploads(1, method={"name": "la_lora"}, optimizer={**LIVELY, "local_steps": 1})
    ffa, _, _ = uploads(1, method={"name": "ffa_lora"}, optimizer={**LIVELY, "local_steps": 1})
    start = small.net_model().initial_adapter(2, 0)
    two, _, _ = uploads(1, method={"name": "la_lora"}, optimizer={**LIVELY, "local_steps": 2})
    three, _, _ = uploads(1, method={"name": "la_lora"}, optimizer={**LIVELY, "local_steps": 3})
    for client in range(len(SIZES)):
        A = start.select({"A"}).flat
        assert torch.equal(la[client].select({"A"}).flat, A)
        B = la[client].select({"B"}).flat
        torch.testing.assert_close(B, ffa[client].flat, rtol=0, atol=1e-5)
        assert torch.equal(two[client].select({"B"}).flat, B)
        assert not torch.equal(two[client].select({"A"}).flat, A)
        assert torch.equal(three[client].select({"A"}).flat, two[client].select({"A"}).flat)
        assert not torch.equal(three[client].select({"B"}).flat, B)


def test_la_loras_filter_is_scipys_gaussian_in_fourier_space():
    for shape in ((4, 31), (30, 4), (3, 8)):
        matrix = drawn(*shape)
        spectrum = fourier_gaussian(torch.fft.fft2(matrix).numpy(), 1.7)
        expected = torch.fft.ifft2(torch.from_numpy(spectrum)).real
        torch.testing.assert_close(smoothed(matrix, 1.7), expected, rtol=0, atol=1e-12)
        both = torch.stack([matrix, 2 * matrix])
        torch.testing.assert_close(smoothed(both, 1.7)[1], 2 * expected, rtol=0, atol=1e-12)


def test_la_lora_takes_one_step_along_the_smoothed_gradient():
    sgd = {"name": "sgd", "lr": 0.1, "local_steps": 1, "batch_size": 4}
    plain, _, _ = uploads(1, method={"name": "la_lora"}, optimizer=sgd)
    smooth, _, _ = uploads(1, method={"name": "la_lora", "smoothing": 1.0}, optimizer=sgd)
    for client in range(len(SIZES)):
        for module in small.TARGETS:
            step = plain[client][module, "B"]  # from zero
            torch.testing.assert_close(
                smooth[client][module, "B"], smoothed(step, 1.0), rtol=0, atol=1e-6
            )
            assert not torch.allclose(step, smoothed(step, 1.0), atol=1e-4)


# Bugs of others ----------------------------------------------------------------------------


def test_nothing_but_the_active_factor_is_trained_whatever_else_the_model_has():
    """FedRot-LoRA's RoLoRA of before July 2026 set requires_grad on all that was not the frozen
    factor: embeddings, base weights and head trained along.
    """
    for number, active in ((1, "B"), (2, "A")):
        settings = small.config(rounds=number)
        engine = small.engine(settings, sizes=SIZES)
        before = {name: t.clone() for name, t in engine.model.module.state_dict().items()}
        state, record = small.run(settings, engine)
        for name, tensor in engine.model.module.state_dict().items():
            assert torch.equal(tensor, before[name])
        start = record.states[-2][0] if number > 1 else None
        first = engine.model.initial_adapter(2, 0) if start is None else start.parts
        frozen = "AB".replace(active, "")
        assert torch.equal(state.parts.select({frozen}).flat, first.select({frozen}).flat)
        assert not torch.equal(state.parts.select({active}).flat, first.select({active}).flat)


def test_fedit_goes_on_from_the_mean_of_the_last_round():
    """FLoRA's FedIT drew new factors in every round."""
    settings = small.config(method={"name": "fedit"}, rounds=1)
    engine = small.engine(settings, sizes=SIZES)
    state, _ = small.run(settings, engine)
    for client in engine.clients:
        start = engine.job(engine.method.plan(state, client)).start
        assert torch.equal(start.flat, state.parts.flat)


def test_the_mean_counts_every_client_of_this_round_and_none_of_the_last():
    """A stacked FedIT's typo counted the first client alone; Fed-SB's several rounds averaged over
    the uploads of all rounds so far.
    """
    method = small.method(small.config(method={"name": "fedit"}))
    state = method.init(small.net_model().initial_adapter(2, 0))
    both = state.parts.select({"A", "B"})
    for value in (1.0, 5.0):
        sent = [
            Update(client, 10, Adapter(both.layout, torch.full_like(both.flat, value * client)))
            for client in range(4)
        ]
        state = method.aggregate(state, iter(sent))
        assert torch.equal(state.parts.flat, torch.full_like(both.flat, 1.5 * value))


def test_in_the_first_round_rolora_learns():
    """Where A trains first, B = 0 stops it: the round is wasted."""
    state, _ = small.run(*started(small.config(rounds=1)))
    assert any(product(state.parts, module).any() for module in small.TARGETS)
    state, _ = small.run(*started(small.config(rounds=1, method={"schedule": "AB"})))
    assert not any(product(state.parts, module).any() for module in small.TARGETS)


def started(settings):
    return settings, small.engine(settings, sizes=SIZES)
