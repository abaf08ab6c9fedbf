"""A site that misbehaves on the wire: what it does is its own failure and nobody else's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from federated import (
    adapter,
    assert_same_adapter,
    changed_update,
    federate,
    lines,
    reasons,
    with_parts,
)
from rolora.core.errors import RunFailed
from rolora.core.types import Adapter
from rolora.tasks.classification import Classification


def saying(handle, change):
    """The site, whose answer to the hello is changed as text."""

    def changed(frames):
        answer = handle(frames)
        return [change(answer[0])] if len(frames) == 1 else answer

    return changed


def fields(change):
    """A header that is changed as JSON."""

    def changed(text):
        header = json.loads(text)
        change(header)
        return json.dumps(header).encode()

    return changed


def of_site(answers, attack, wanted, client=2):
    """The answers of one site are changed, where they are of the wanted kind."""

    def answered(number, frames):
        return attack(frames) if number == client and wanted in frames[0] else frames

    answers["answered"] = answered


def set_train(value):
    def change(header):
        header.update(examples={**header["examples"], "train": value}, strata=None)

    return fields(change)


HELLO = {
    "a count of 400 digits": lambda text: text.replace(b'"train": ', b'"train": 1' + b"0" * 400, 1),
    "of 6000 digits": lambda text: text.replace(b'"train": ', b'"train": 1' + b"0" * 6000, 1),
    "10^15 examples": set_train(10**15),
    "no whole number": set_train(3.5),
    "a float that says it is one": set_train(40.0),
    "true": set_train(True),
    "below zero": set_train(-1),
    "text": set_train("40"),
    "NaN": set_train(float("nan")),
    "too deep": lambda text: b'{"strata": ' * 100_000,
    "a list too many": fields(lambda header: header.update(strata={"train": [1] * 100_000})),
    "too long": lambda text: text + b" " * 5_000_000,
    "a long name": fields(lambda header: header["names"].__setitem__(0, "x" * 10_000)),
    "a long fingerprint": fields(lambda header: header.update(fingerprint="x" * 10_000)),
    "a long origin": fields(lambda header: header.update(test_from="x" * 10_000)),
    "half a character": lambda text: text.replace(b'"test_from": "', b'"test_from": "\\ud800'),
    "a split of its own": fields(lambda header: header["examples"].update(more=1)),
    "no splits": fields(lambda header: header.update(examples={})),
    "no mapping": lambda text: b"[]",
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("attack", HELLO.values(), ids=HELLO)
def test_what_a_site_says_when_it_joins_is_bounded(sites, run_yaml, tmp_path, attack):
    """It does not take part, and is named; the others go on."""
    handlers, _ = sites
    handlers[2] = saying(handlers[2], attack)
    federate(run_yaml, tmp_path / "run", "rounds=1")
    assert reasons(tmp_path / "run") == [[(2, "malformed")]]
    assert lines(tmp_path / "run")[0]["clients"] == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [(f["client"], f["reason"]) for f in summary["test_failures"]] == [(2, "malformed")]


def test_a_run_whose_sites_all_misbehave_is_told_so(sites, run_yaml, tmp_path):
    handlers, _ = sites
    for client in handlers:
        handlers[client] = saying(handlers[client], lambda text: b"{}")
    with pytest.raises(RunFailed, match="0 of 3 clients have joined"):
        federate(run_yaml, tmp_path / "run", "engine.patience=0.1")


def header_of_update(change):
    """An update whose header is changed as JSON."""

    def attack(frames):
        payload = frames[1]
        length = int.from_bytes(payload[:8], "little")
        outer = json.loads(payload[8 : 8 + length])
        outer["__metadata__"]["rolora"] = change(outer["__metadata__"]["rolora"].encode()).decode()
        text = json.dumps(outer).encode()
        return [frames[0], len(text).to_bytes(8, "little") + text + payload[8 + length :]]

    return attack


def number(value):
    return header_of_update(fields(lambda header: header.update(num_examples=value)))


def empty_tensor(frames):
    """A tensor of no bytes, whose shape no machine can hold."""
    payload = frames[1]
    length = int.from_bytes(payload[:8], "little")
    outer = json.loads(payload[8 : 8 + length])
    outer["more"] = {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    text = json.dumps(outer).encode()
    return [frames[0], len(text).to_bytes(8, "little") + text + payload[8 + length :]]


UPDATE = {
    "a count of 400 digits": header_of_update(
        lambda text: text.replace(b'"num_examples": ', b'"num_examples": 1' + b"0" * 400)
    ),
    "of 6000 digits": header_of_update(
        lambda text: text.replace(b'"num_examples": ', b'"num_examples": 1' + b"0" * 6000)
    ),
    "true": number(True),
    "a float that says it is a count": number(5.0),
    "NaN": number(float("nan")),
    "text": number("5"),
    "a weight of NaN": header_of_update(fields(lambda h: h.update(weight=float("nan")))),
    "too deep": header_of_update(lambda text: b"[" * 100_000),
    "losses without end": header_of_update(
        fields(lambda h: h.update(metrics={str(i): 1.0 for i in range(1000)}))
    ),
    "a loss in words": header_of_update(fields(lambda h: h["metrics"].update(train_loss="low"))),
    "a field of its own": header_of_update(fields(lambda h: h.update(more=1))),
    "a shape that nothing has": empty_tensor,
    "no second frame": lambda frames: frames[:1],
    "deep from the start": lambda frames: [b"[" * 100_000, frames[1]],
}


@pytest.mark.parametrize("attack", UPDATE.values(), ids=UPDATE)
def test_what_stands_beside_an_update_is_bounded(sites, run_yaml, tmp_path, attack):
    _, answers = sites
    of_site(answers, attack, b"update")
    federate(run_yaml, tmp_path / "run", "rounds=1")
    assert reasons(tmp_path / "run") == [[(2, "malformed")]]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e30])
def test_a_training_loss_that_is_none_is_the_site_s_failure(sites, run_yaml, tmp_path, loss):
    _, answers = sites
    attack = changed_update(lambda update: replace(update, metrics={"train_loss": loss}))
    of_site(answers, attack, b"update")
    federate(run_yaml, tmp_path / "run", "rounds=1")
    assert reasons(tmp_path / "run") == [[(2, "train_loss")]]
    assert lines(tmp_path / "run")[0]["train_loss"] < 10


def evaluation(change):
    def changed(header):
        change(header["evaluations"][0])

    return lambda frames: [fields(changed)(frames[0])]


def sums(**given):
    return evaluation(lambda one: one["sums"].update(given))


EVALUATION = {
    "10^12 right answers": evaluation(
        lambda one: one.update(
            num_examples=10**12, sums={"loss": [0.0, 1e12], "confusion": [1e12, 0.0, 0.0, 0.0]}
        )
    ),
    "a count of 400 digits": lambda frames: [
        frames[0].replace(b'"num_examples": ', b'"num_examples": 1' + b"0" * 400)
    ],
    "true": evaluation(lambda one: one.update(num_examples=True)),
    "NaN": sums(loss=[float("nan"), 5.0]),
    "a loss without end": evaluation(lambda one: one["sums"]["loss"].__setitem__(0, 1e15)),
    "true among sums": sums(confusion=[True, 0.0, 0.0, 0.0]),
    "a list in a list": sums(confusion=[[1.0], 0.0, 0.0, 0.0]),
    "too many sums": sums(confusion=[0.0] * 100_000),
    "too deep": lambda frames: [b'{"evaluations": ' * 100_000],
    "two of them": lambda frames: [
        fields(lambda header: header["evaluations"].append(header["evaluations"][0]))(frames[0])
    ],
    "none of the kind": lambda frames: [fields(lambda header: header.update(kind="x"))(frames[0])],
}


@pytest.mark.parametrize("attack", EVALUATION.values(), ids=EVALUATION)
def test_what_a_site_says_of_its_evaluation_is_bounded(sites, run_yaml, tmp_path, attack):
    _, answers = sites
    of_site(answers, attack, b"evaluations")
    federate(run_yaml, tmp_path / "run", "rounds=1")
    [[(client, reason)]] = reasons(tmp_path / "run", "eval_failures")
    assert (client, reason in ("malformed", "num_examples")) == (2, True)
    assert lines(tmp_path / "run")[0]["validation"]["accuracy"] < 1.0


def test_a_score_that_cannot_be_made_of_a_site_s_sums_is_its_failure(
    sites, run_yaml, tmp_path, monkeypatch
):
    """Whatever it raises, though nobody thought of it."""
    scores = Classification.scores

    def picky(self, sums):
        if sums["loss"][0] == 0.125:
            raise ZeroDivisionError("nobody thought of this")
        return scores(self, sums)

    monkeypatch.setattr(Classification, "scores", picky)
    _, answers = sites
    of_site(answers, evaluation(lambda one: one["sums"]["loss"].__setitem__(0, 0.125)), b"eval")
    federate(run_yaml, tmp_path / "run", "rounds=1")
    assert reasons(tmp_path / "run", "eval_failures") == [[(2, "malformed")]]


def test_a_site_may_not_raise_what_it_declared(sites, run_yaml, tmp_path):
    """It joins again with ten times the examples, to weigh ten times as much."""
    handlers, _ = sites
    honest = handlers[2]

    def grow(metrics):
        handlers[2] = saying(honest, set_train(5000))

    federate(run_yaml, tmp_path / "run", "rounds=3", finished=grow)
    assert reasons(tmp_path / "run") == [[], [(2, "other_facts")], [(2, "other_facts")]]


def boasting(handle, counts):
    """A site that declares so many examples, says the same of its updates, and that its model gets
    all held-out examples right.
    """

    def changed(frames):
        answer = handle(frames)
        if len(frames) == 1:
            return [
                fields(
                    lambda h: h.update(examples=dict.fromkeys(h["examples"], counts), strata=None)
                )(answer[0])
            ]
        if len(answer) == 2:
            loud = changed_update(lambda update: replace(update, num_examples=counts))
            filled = with_parts(lambda p: Adapter(p.layout, torch.full_like(p.flat, 0.777)))
            return filled(loud(answer))
        right = {"loss": [0.0, counts], "confusion": [counts, 0, 0, 0]}
        return evaluation(lambda one: one.update(num_examples=counts, sums=right))(answer)

    return changed


def test_a_site_that_declares_too_much_does_not_own_the_run(sites, run_yaml, tmp_path):
    """Neither the model nor what is said of it."""
    handlers, _ = sites
    honest = handlers[2]
    handlers[2] = boasting(honest, 10**12)
    federate(run_yaml, tmp_path / "refused", "rounds=2")
    assert reasons(tmp_path / "refused") == 2 * [[(2, "malformed")]]
    handlers[2] = boasting(honest, 10**7)
    both = ("rounds=2", "federation.max_jump=null")
    federate(run_yaml, tmp_path / "limited", *both, "federation.max_share=0.34")
    for line in lines(tmp_path / "limited"):
        weights = [update["weight"] for update in line["updates"]]
        assert max(weights) <= 0.3401 * sum(weights)
    found = json.loads((tmp_path / "limited" / "summary.json").read_text())
    apart = [client["scores"]["accuracy"] for client in found["clients"]]
    assert apart[2] == 1.0
    third = found["final"]["test"]["accuracy"]
    assert third == pytest.approx((apart[0] + apart[1] + 1.0) / 3, abs=0.02)
    assert found["test_examples"] < 100
    filled = adapter(tmp_path / "limited").values()
    assert not any((tensor - 0.777).abs().max() < 0.1 for tensor in filled)


def spoil(value):
    def change(parts):
        changed = parts.clone()
        changed.flat[0] = value
        return changed

    return with_parts(change)


def test_a_huge_value_is_the_failure_of_the_site_that_sent_it_after_a_restart_too(
    sites, run_yaml, tmp_path
):
    class PowerCut(BaseException):
        pass

    def cut(metrics):
        if metrics.round == 2:
            raise PowerCut

    handlers, answers = sites
    of_site(answers, spoil(3e38), b"update")
    with pytest.raises(PowerCut):
        federate(run_yaml, tmp_path / "run", finished=cut)
    federate(run_yaml, tmp_path / "run", resume=True)
    assert reasons(tmp_path / "run") == [*3 * [[(2, "too_far")]], []]  # then it is asked no more
    assert [line["clients"] for line in lines(tmp_path / "run")] == 4 * [2]
    answers["answered"] = lambda client, frames: frames
    del handlers[2]
    federate(run_yaml, tmp_path / "without")
    assert_same_adapter(adapter(tmp_path / "run"), adapter(tmp_path / "without"))
