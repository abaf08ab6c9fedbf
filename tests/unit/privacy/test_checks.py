"""What does not go with privacy is refused by name, before round 1."""

import pytest

import small
from rolora.core.errors import BadInput
from rolora.methods import METHODS

CLIENT = {"unit": "client", "clip": 0.1, "noise_multiplier": 1.0}
EXAMPLE = {**CLIENT, "unit": "example"}
UNIFORM = {"weighting": "uniform"}


def checked(privacy=CLIENT, **sections):
    sections = {"server": UNIFORM, **sections}
    return small.checked(small.config(privacy=privacy, **sections))


@pytest.mark.parametrize("name", METHODS.own)
def test_a_methods_clients_are_hidden_where_it_needs_their_sum_alone(name):
    fits = METHODS[name].reduction == "sum" and not METHODS[name].personal
    if fits:
        assert checked(method={"name": name})
    else:
        with pytest.raises(BadInput, match=r"privacy.unit = 'client'.*unit: example"):
            checked(method={"name": name})


@pytest.mark.parametrize("name", METHODS.own)
def test_examples_are_hidden_at_the_client_under_every_method(name):
    assert checked(EXAMPLE, method={"name": name})


REFUSED = {
    "weights": (CLIENT, {"server": {"weighting": "examples"}}, r"server.weighting = 'examples'"),
    "reducer": (CLIENT, {"server": {**UNIFORM, "reducer": "median"}}, r"server.reducer = 'median'"),
    "local head": (CLIENT, {"model": {"head": "local"}}, r"clients keep head for themselves"),
    "lost rounds": (CLIENT, {"checkpoint": {"every": 2}}, r"checkpoint.every = 2"),
    "a part without a clip": (
        {**CLIENT, "clip": {"A": 1.0, "B": 1.0}},
        {"model": {"head": "train"}},
        r"privacy.clip = .*none for head",
    ),
    "shares of a sample": (
        {**CLIENT, "noise": "clients"},
        {"federation": {"clients": 4, "clients_per_round": 2}},
        r"privacy.noise = 'clients'.*clients_per_round = 2",
    ),
    "one share alone": (
        {**CLIENT, "noise": "clients"},
        {"federation": {"clients": 4, "quorum": 0.1}},
        r"federation.quorum = 0.1",
    ),
    "label shares in the loss": (
        EXAMPLE,
        {"objective": {"logit_adjustment": 1.0}},
        r"objective.logit_adjustment = 1",
    ),
    "label shares in the weight": (
        EXAMPLE,
        {"server": {"weighting": "information"}},
        r"server.weighting = 'information'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_make_the_promise_untrue_is_refused(case):
    privacy, sections, said = REFUSED[case]
    with pytest.raises(BadInput, match=said):
        checked(privacy, **sections)


WRONG = [
    ({"clip": 0.1}, r"privacy: give noise_multiplier, or target_epsilon"),
    ({**EXAMPLE, "noise": "server"}, r"privacy: noise = 'server': an example is hidden at its own"),
    ({**CLIENT, "clip": 0.0}, r"privacy.clip"),
    ({**CLIENT, "delta": 1.0}, r"privacy.delta = 1.0"),
    ({**CLIENT, "noice": "server"}, r"privacy.noice: unknown key \(did you mean noise"),
]


@pytest.mark.parametrize(("privacy", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_section_is_refused_by_name(privacy, said):
    with pytest.raises(BadInput, match=said):
        small.config(privacy=privacy)
