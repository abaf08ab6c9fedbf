"""SCAFFOLD on the active factor: its control variates, and what they are for."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import small
from rolora.core.errors import BadInput
from rolora.methods.scaffold import CONTROL

SIZES = (9, 5, 7, 4, 6)


def run(name="scaffold", sizes=SIZES, examples=None, **sections):
    sections["method"] = {"name": name, **sections.get("method", {})}
    sections.setdefault("federation", {"clients": len(sizes)})
    sections.setdefault("optimizer", {"name": "sgd", "lr": 0.1, "local_steps": 3, "batch_size": 4})
    settings = small.config(**sections)
    engine = small.engine(settings, sizes=sizes, examples=examples)
    state, record = small.run(settings, engine)
    return engine, state, record


def server_variate(state, part):
    return state.parts.select({f"{CONTROL}.{part}"}).flat


def client_variates(engine, part):
    name = f"{CONTROL}/{part}"
    own = [engine.own[client].state.get(name) for client in range(len(SIZES))]
    return [None if of is None else of for of in own]


def test_the_servers_variate_is_the_mean_of_the_clients():
    engine, state, _ = run(rounds=5)
    for part in "AB":
        own = client_variates(engine, part)
        mean = sum(n * c for n, c in zip(SIZES, own, strict=True)) / sum(SIZES)
        torch.testing.assert_close(server_variate(state, part), mean, rtol=0, atol=1e-6)
        assert mean.abs().max() > 1e-4


def test_with_a_sampled_cohort_the_servers_variate_moves_by_its_share():
    sections = {
        "federation": {"clients": 5, "clients_per_round": 2},
        "server": {"weighting": "uniform"},
    }
    engine, state, _ = run(rounds=6, **sections)
    for part in "AB":
        total = sum(c for c in client_variates(engine, part) if c is not None)
        torch.testing.assert_close(server_variate(state, part), total / 5, rtol=0, atol=1e-6)


def test_a_clients_new_variate_is_option_two_of_the_paper():
    """``c_i - c + (x - y_i) / (K eta)``, with SGD; all variates are zero in the first round."""
    lr, steps = 0.1, 3
    for rounds in (1, 3):
        engine, *_ = run(rounds=rounds)
        earlier, state, _ = run(rounds=rounds - 1) if rounds > 1 else (None, None, None)
        before = state and state.parts
        start = engine.model.initial_adapter(2, 0) if before is None else before
        ends = trained(rounds, before)
        for client, end in enumerate(ends):
            c_i = 0.0 if earlier is None else earlier.own[client].state[f"{CONTROL}/B"]
            c = 0.0 if before is None else before.select({f"{CONTROL}.B"}).flat
            moved = (start.select({"B"}).flat - end.flat) / (steps * lr)
            expected = c_i - c + moved
            got = engine.own[client].state[f"{CONTROL}/B"]
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def trained(rounds, before):
    """Every client's B after its local steps in round `rounds`."""
    seen = {}
    settings = small.config(
        method={"name": "scaffold"},
        rounds=rounds,
        federation={"clients": len(SIZES)},
        optimizer={"name": "sgd", "lr": 0.1, "local_steps": 3, "batch_size": 4},
    )
    engine = small.engine(settings, sizes=SIZES)
    train = engine.train

    def watching(plans):
        for update in train(plans):
            if plans[0].round == rounds:
                seen[update.client] = update.parts.select({"B"})
            yield update

    engine.train = watching
    small.run(settings, engine)
    return [seen[client] for client in range(len(SIZES))]


def test_one_client_alone_is_rolora():
    """``c_i = c``: nothing is corrected."""
    _, state, _ = run(rounds=4, sizes=(12,))
    _, other, _ = run("rolora", rounds=4, sizes=(12,))
    own = state.parts.select({"A", "B"})
    torch.testing.assert_close(own.flat, other.parts.flat, rtol=0, atol=1e-6)


def test_twice_rolora_travels():
    _, _, record = run(rounds=6)
    _, _, other = run("rolora", rounds=6)
    for line, plain in zip(record.metrics[2:], other.metrics[2:], strict=True):
        assert line.bytes_up == pytest.approx(2 * plain.bytes_up, rel=0.05)
        assert line.bytes_down == pytest.approx(2 * plain.bytes_down, rel=0.05)


def test_a_shared_head_is_corrected_too_and_a_local_one_is_not():
    engine, state, _ = run(rounds=3, model={"head": "train"})
    assert server_variate(state, "head").abs().max() > 1e-4
    engine, state, _ = run(rounds=3, model={"head": "local"})
    assert f"{CONTROL}.head" not in state.parts.parts
    assert f"{CONTROL}/head" not in engine.own[0].state


def test_it_ends_where_all_clients_gradients_cancel_and_rolora_does_not():
    """Two clients that give the same points different labels, many local steps: plain averaging
    ends where their drifts cancel, SCAFFOLD at a fixed point of the mean loss (its Theorem III
    needs no bound on how far the clients differ).
    """
    sizes = (12, 6)
    data = small.pixel_examples(12).select(torch.cat([torch.arange(n) for n in sizes]))
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(sizes)])
    data = replace(data, targets=labels, strata=labels)
    norms = {}
    for name in ("rolora", "scaffold"):
        _, state, _ = run(
            name,
            sizes=sizes,
            examples=data,
            rounds=100,
            method={"schedule": "B"},
            optimizer={"name": "sgd", "lr": 0.05, "local_steps": 20, "batch_size": 99},
        )
        norms[name] = pooled_gradient(state.parts, data).norm()
    assert norms["scaffold"] < 0.1 * norms["rolora"]


def pooled_gradient(parts, data):
    """Of the mean loss over all examples, in B."""
    model = small.net_model()
    tensors = {key: tensor[None].clone() for key, tensor in parts.select({"A", "B"}).items()}
    leaves = {key: t.requires_grad_() for key, t in tensors.items() if key[1] == "B"}
    model.mount(tensors | leaves, [4.0])
    loss = nn.functional.cross_entropy(model.logits(data.dense), data.targets)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))])


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"method": {"name": "scaffold", "gauge": "orthonormal"}}, "method.gauge"),
        ({"method": {"name": "scaffold"}, "server": {"reducer": "median"}}, "server.reducer"),
        ({"method": {"name": "scaffold"}, "stages": ["int8"]}, "stages"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(sections, words):
    with pytest.raises(BadInput, match=words):
        small.checked(small.config(**sections))
