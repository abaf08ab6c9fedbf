"""The secure sum across sites: what a site answers, keeps and refuses; sites that come and go."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from federated import (
    adapter,
    assert_same_adapter,
    assert_same_run,
    connect_locally,
    federate,
    handler,
    leaving,
    lines,
    reasons,
    round_of,
    simulate,
    step_of,
)
from rolora.config import load_config
from rolora.core.errors import BadInput, RunFailed
from rolora.engines.flower import certificates, connect, messages
from rolora.engines.flower.handler import settled_in
from rolora.engines.flower.project import agreed_to
from rolora.engines.flower.told import Declined
from rolora.report.run_report import write_report
from rolora.secure.forms import pack_clients

ON = "secure_sum.threshold=0.6"


@pytest.mark.parametrize("step", ["keys", "shares", "masked", "opened"])
def test_a_site_that_drops_out_is_named_and_the_sum_is_of_the_others(
    sites, run_yaml, tmp_path, monkeypatch, step
):
    handlers, answers = sites
    leaving(handlers, 1, step, 2)
    # Weights are set before it is gone.
    options = ["evaluation.every=9", "federation.max_share=1", "rounds=2"]
    federate(run_yaml, tmp_path / "summed", ON, *options)
    assert reasons(tmp_path / "summed") == [[], [(1, "site_error")]]
    there = [[u["client"] for u in line["updates"]] for line in lines(tmp_path / "summed")]
    assert there[1] == ([0, 1, 2] if step == "opened" else [0, 2])

    plain = {client: handler(run_yaml, client, tmp_path / "plain") for client in range(3)}
    if step != "opened":
        leaving(plain, 1, "masked", 2)
    connect_locally(monkeypatch, plain, answers)
    federate(run_yaml, tmp_path / "plainly", *options)
    assert_same_adapter(adapter(tmp_path / "summed"), adapter(tmp_path / "plainly"))


def test_below_the_threshold_the_run_ends_and_nothing_was_opened(sites, run_yaml, tmp_path):
    handlers, _ = sites
    asked = []
    for client in (0, 1):
        leaving(handlers, client, "masked", 2)
    third = handlers[2]

    def listening(frames):
        asked.append((round_of(frames), step_of(frames)))
        return third(frames)

    handlers[2] = listening
    with pytest.raises(RunFailed, match=r"round 2: the quorum .* site_error"):
        federate(run_yaml, tmp_path / "run", ON)
    assert len(lines(tmp_path / "run")) == 1
    assert [step for number, step in asked if number == 2] == 3 * ["keys", "shares", "masked"]


def test_what_travels_is_masked(sites, run_yaml, tmp_path):
    """Whole numbers and no loss, though the site's own log has it."""
    _, answers = sites
    sent = []

    def listening(client, frames):
        if b'"update"' in frames[0]:
            sent.append(messages.unpack_update(frames))
        return frames

    answers["answered"] = listening
    federate(run_yaml, tmp_path / "run", ON, "rounds=1")
    assert [update.parts.flat.dtype for update in sent] == 3 * [torch.int32]
    assert [sorted(update.metrics) for update in sent] == 3 * [["seconds"]]
    assert write_report(tmp_path / "run").exists()


class PowerCut(BaseException):
    pass


def test_a_round_done_again_is_opened_over_the_same_sites(sites, run_yaml, tmp_path, monkeypatch):
    """Site 1 was away in round 2, and the server goes back behind it; though the site is there now,
    the round is what it was, to the bit, since the other sum would tell what site 1 sends.
    """
    handlers, _ = sites
    options = [ON, "evaluation.every=9", "rounds=3"]
    leaving(handlers, 1, "masked", 2)

    def copied(metrics):
        if metrics.round == 1:
            shutil.copytree(tmp_path / "run", tmp_path / "earlier")

    federate(run_yaml, tmp_path / "run", *options, finished=copied)
    handlers.update({client: handler(run_yaml, client, tmp_path) for client in range(3)})
    federate(run_yaml, tmp_path / "earlier", *options, resume=True)
    assert reasons(tmp_path / "run") == [[], [(1, "site_error")], []]
    assert reasons(tmp_path / "earlier") == [[], [(1, "left_out")], []]
    one, other = adapter(tmp_path / "run"), adapter(tmp_path / "earlier")
    assert all(torch.equal(one[name], other[name]) for name in one)


def pinned(directory):
    """Per client the keys of its site: its own, and the others' pinned."""
    for client in range(3):
        certificates.make_node_key(directory / f"site{client}")
    (directory / "ca.crt").write_text("")
    return [
        {
            "tls": {"authority": directory / "ca.crt", "node_key": directory / f"site{client}"},
            "peers": {c: directory / f"site{c}.pub" for c in range(3) if c != client},
        }
        for client in range(3)
    ]


def test_sites_that_pin_each_other_s_keys_take_no_others(run_yaml, tmp_path, monkeypatch):
    """One of them signs with another key than the others know."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = (pinned(tmp_path / name) for name in ("ours", "theirs"))
    found = {}
    for name, third in (("all", ours[2]), ("stranger", theirs[2])):
        keys = [*ours[:2], third]
        sites = {c: handler(run_yaml, c, tmp_path / name, keys=keys[c]) for c in range(3)}
        connect_locally(monkeypatch, sites, {"answered": lambda client, frames: frames})
        options = [ON, "rounds=1", "evaluation.every=9"]
        if name == "all":
            federate(run_yaml, tmp_path / name / "run", *options)
            found = reasons(tmp_path / name / "run")
        else:
            with pytest.raises(RunFailed, match=r"the quorum .* refused"):
                federate(run_yaml, tmp_path / name / "run", *options)
    assert found == [[]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda keys: keys.pop("tls"), "peers: the site's own keys are signed with tls.node_key"),
        (lambda keys: keys["peers"].update({1: keys["tls"]["authority"]}), r"peers.1 = .*P-384"),
        (lambda keys: keys["peers"].update({1: "nowhere"}), r"peers.1 = 'nowhere': cannot be read"),
    ],
)
def test_a_key_that_is_none_is_a_mistake_of_the_site(run_yaml, tmp_path, change, words):
    keys = pinned(tmp_path)[0]
    change(keys)
    site = handler(run_yaml, 0, tmp_path, keys=keys)
    with pytest.raises(BadInput, match=words):
        site(connect.hello(load_config(run_yaml, ["engine.name=flower", ON])))


@pytest.fixture
def summing(run_yaml, tmp_path):
    """A site that has joined a run with a secure sum, and what asks it for a step of round 1."""
    site = handler(run_yaml, 0, tmp_path)
    config = load_config(run_yaml, ["engine.name=flower", ON])
    site(connect.hello(config))

    def ask(step, text=b"", number=1):
        answer = site(messages.pack_step(messages.Step(step, "0" * 32, number, text)))
        return messages.unpack_answer(answer)

    return site, ask, config


def test_a_site_answers_no_plain_request_to_train_in_such_a_run(summing):
    """Its update would be seen by itself."""
    site, ask, _ = summing
    method = site._site.agreed.method
    state = site._site.agreed.initial
    plan = method.plan(state, site._site.agreed.client)
    digests = {part: messages.digest(state.parts.select({part})) for part in plan.send.parts}
    request = messages.Request("train", "0" * 32, plan, digests)
    with pytest.raises(Declined, match="secure sum: none of round 1 has begun") as why:
        site(messages.Packer()(request))
    assert why.value.reason == "refused"
    ask("keys")
    with pytest.raises(Declined, match="secure sum: step masked after") as why:
        site(messages.Packer()(replace(request, dealt=pack_clients([1, 2]))))
    assert why.value.reason == "refused"


@pytest.mark.parametrize(
    ("step", "number"),
    [("shares", 1), ("opened", 1), ("keys", 0), ("keys", 5), ("dump", 1), ("masked", 1)],
)
def test_a_step_out_of_place_is_refused(summing, step, number):
    _, ask, _ = summing
    with pytest.raises(Declined) as why:
        ask(step, number=number)
    assert why.value.reason == "refused"


def test_a_run_without_a_sum_has_no_steps(run_yaml, tmp_path):
    site = handler(run_yaml, 0, tmp_path)
    site(connect.hello(load_config(run_yaml, ["engine.name=flower"])))
    with pytest.raises(Declined, match="none is agreed on"):
        site(messages.pack_step(messages.Step("keys", "0" * 32, 1, b"")))


def test_a_site_may_take_part_in_nothing_but_sums(run_yaml, tmp_path):
    site = handler(run_yaml, 0, tmp_path, least_sum=2)
    with pytest.raises(
        Declined, match=r"an update would be seen in a sum over 1, .*least_sum is 2"
    ):
        site(connect.hello(load_config(run_yaml, ["engine.name=flower"])))
    site(connect.hello(load_config(run_yaml, ["engine.name=flower", ON])))


def test_what_a_site_agrees_to_of_a_run_with_a_sum_is_sums_over_as_many(run_yaml):
    assert agreed_to(load_config(run_yaml, [ON]))["least_sum"] == 2
    assert "least_sum" not in agreed_to(load_config(run_yaml))


def test_a_site_whose_change_is_beyond_reach_says_so_and_no_more(sites, run_yaml, tmp_path):
    with pytest.raises(RunFailed, match="out_of_reach a number of its change is beyond"):
        federate(run_yaml, tmp_path / "run", ON, "secure_sum.reach=1e-6")


def test_a_setting_that_a_later_version_adds_makes_no_other_run(run_yaml):
    config = load_config(run_yaml)
    settings = config.model_dump(mode="json")
    assert settled_in({k: v for k, v in settings.items() if k != "secure_sum"}) == settled_in(
        settings
    )
    on = load_config(run_yaml, [ON]).model_dump(mode="json")
    assert settled_in(on) != settled_in(settings)


def test_kill_and_resume_end_as_the_simulator(sites, run_yaml, tmp_path):
    def cut(metrics):
        if metrics.round == 3:
            raise PowerCut

    with pytest.raises(PowerCut):
        federate(run_yaml, tmp_path / "run", ON, finished=cut)
    federate(run_yaml, tmp_path / "run", ON, resume=True)
    simulate(run_yaml, tmp_path / "simulated", ON)
    assert_same_run(tmp_path / "run", tmp_path / "simulated")
