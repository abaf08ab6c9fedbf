"""Attacks that hurt the plain mean, and a defence that is named here holds against each."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments.attacks.config import DEFENCES, NONE
from experiments.attacks.report import HELD_BY
from federated import write_run
from rolora.attacks import ATTACKS, attack_named
from rolora.attacks.changes import Seen, alie, boosted, inner_product
from rolora.attacks.examples import TARGET, Trigger, backdoor, label_flip
from rolora.attacks.trial import Hostile, drawn, outcome, tried
from rolora.cli.main import app
from rolora.config import load_config
from rolora.core.errors import BadInput
from rolora.engines.preparation import build_engine, load, prepare
from small import config, text_examples, tokenizer

TEN = [
    "federation.clients=10",
    "federation.max_jump=null",  # the judged aggregate is a defence of its own
    "rounds=8",
    "optimizer.lr=0.02",
    "data.test=0.4",
]
FRACTION = 0.3


@pytest.fixture(scope="module")
def run_yaml(model_dir, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("attacks"), model_dir("bert"))


@pytest.fixture(scope="module")
def prepared(run_yaml):
    """``prepared(defence)``: the run with it, loaded once."""
    loaded = load(load_config(run_yaml, TEN), lambda notice: None)

    def made(defence):
        reducer = DEFENCES[defence].options(FRACTION).model_dump_json()
        settings = load_config(run_yaml, [*TEN, f"server.reducer={reducer}"])
        return prepare(settings, loaded, lambda notice: None)

    return made


@pytest.fixture(scope="module")
def honest(prepared):
    """How the run comes out without anybody hostile."""
    return outcome(prepared("mean"), ATTACKS["backdoor"], ())


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_BY)
def test_an_attack_hurts_the_mean_and_a_defence_holds(name, prepared, honest):
    plain, robust = prepared(NONE), prepared(HELD_BY[name])
    hostile = drawn(plain.config, FRACTION)
    assert len(hostile) == 3
    attacked = outcome(plain, ATTACKS[name], hostile)
    defended = outcome(robust, ATTACKS[name], hostile)
    if name == "backdoor":
        assert attacked.backdoor > honest.backdoor + 0.2
        assert defended.backdoor < attacked.backdoor - 0.2
    else:
        assert attacked.score < honest.score - 0.1
        assert defended.score > attacked.score + 0.1


def test_the_page_names_the_defences_that_are_held_here():
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    said = {row[0].strip(" `"): row[2] for row in rows if len(row) == 3}
    for name, defence in HELD_BY.items():
        assert f"`{defence}`" in said[name]


def test_with_nobody_hostile_it_is_the_ordinary_simulator(prepared):
    ready = prepared("mean")
    ours = Hostile(ready, build_engine(ready).splits, (), ATTACKS["scaled"].lie)
    theirs, state = build_engine(ready), ready.initial()
    plans = [ready.method.plan(state, ready.client(i)) for i in range(10)]
    for one, other in zip(ours.train(plans), theirs.train(plans), strict=True):
        assert torch.equal(one.parts.flat, other.parts.flat)


def test_only_hostile_clients_lie_and_about_their_own_change(prepared):
    ready = prepared("mean")
    liars = Hostile(ready, build_engine(ready).splits, (1, 4), ATTACKS["scaled"].lie)
    state = ready.initial()
    plans = [ready.method.plan(state, ready.client(i)) for i in range(6)]
    honest = {update.client: update.parts.flat for update in build_engine(ready).train(plans)}
    start = plans[0].send.select({"B"}).flat
    for update in liars.train(plans):
        expected = honest[update.client]
        if update.client in (1, 4):
            expected = start - 10 * (expected - start)
        torch.testing.assert_close(update.parts.flat, expected)


def seen(honest, liars, d=5):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(honest, d, generator=generator)
    return Seen(torch.randn(d, generator=generator), rows, liars, generator)


@pytest.mark.parametrize(("honest", "liars", "z"), [(26, 24, 1.5), (26, 25, 1.7688), (7, 3, 1.5)])
def test_alie_is_as_far_as_the_paper_says(honest, liars, z):
    """Of 51 clients 25 are hostile: s = 1, and z is the quantile of 25 / 26."""
    round_ = seen(honest, liars)
    expected = round_.honest.mean(0) - z * round_.honest.std(0, correction=0)
    torch.testing.assert_close(alie(round_), expected, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(alie(seen(1, 9))).all()


def test_what_the_mean_becomes():
    round_ = seen(7, 3)
    lies = inner_product(round_).expand(3, -1)
    mean = torch.cat([round_.honest, lies]).mean(0)
    torch.testing.assert_close(mean, -0.5 * 0.7 * round_.honest.mean(0))
    alone = seen(9, 1)
    replaced = torch.cat([torch.zeros(9, 5), boosted(alone)[None]]).mean(0)
    torch.testing.assert_close(replaced, alone.own)


def test_labels_are_flipped_on_the_given_rows_alone():
    given = text_examples(9, num_labels=3)
    rows = torch.tensor([0, 4, 8])
    flipped = label_flip(given, rows, None)
    expected = given.targets.clone()
    expected[rows] = 2 - given.targets[rows]
    assert torch.equal(flipped.targets, expected)
    assert torch.equal(flipped.strata, given.strata)  # they are dealt as before


def test_a_phrase_stands_after_what_begins_a_text():
    given = text_examples(6, shortest=1, longest=9)
    trigger = Trigger.of(tokenizer(), 12, "w50 w51 w52")
    assert (trigger.tokens.tolist(), trigger.at) == ([54, 55, 56], 1)
    rows = torch.arange(0, 6, 2)
    changed = trigger.put_into(given, rows)
    for i in range(6):
        before, after = (each.select(torch.tensor([i])) for each in (given, changed))
        words, with_phrase = (e.tokens["input_ids"][:-1].tolist() for e in (before, after))
        if i % 2:
            assert with_phrase == words
            continue
        whole = [words[0], 54, 55, 56, *words[1:]]
        assert with_phrase == (whole if len(whole) <= 12 else [*whole[:11], words[-1]])
    assert max(changed.lengths) <= 12
    with pytest.raises(BadInput, match=r"data.max_length = 5"):
        Trigger.of(tokenizer(), 5, "w50 w51 w52")


def test_a_backdoor_is_in_half_of_the_texts_with_its_label():
    given = text_examples(12)
    rows = torch.arange(1, 9)
    trigger = Trigger.of(tokenizer(), 20, "w50 w51")
    poisoned = backdoor(given, rows, trigger)
    grown = (poisoned.lengths - given.lengths).bool()
    assert grown.nonzero().flatten().tolist() == [1, 3, 5, 7]
    assert (poisoned.targets[grown] == TARGET).all()
    assert torch.equal(poisoned.targets[~grown], given.targets[~grown])


def test_what_cannot_be_tried_is_refused(run_yaml):
    def first(attack, *overrides, fraction=0.2):
        return next(tried(load_config(run_yaml, overrides), ATTACKS[attack], fraction, [0]))

    with pytest.raises(BadInput, match=r"--fraction 1.*below 1"):
        first("noise", fraction=1.0)
    with pytest.raises(BadInput, match=r"engine.name = 'flower'"):
        first("noise", "engine.name=flower")
    with pytest.raises(BadInput, match=r"task.name = 'regression'"):
        first("label_flip", "task.name=regression")
    with pytest.raises(BadInput, match="stages = "):
        first("noise", "stages=[int8]")
    with pytest.raises(BadInput, match=r"lora.client_ranks"):
        first("noise", "method.name=flexlora", "lora.client_ranks=[1,2]")
    with pytest.raises(BadInput, match=r"--attack 'sign_flop'.*did you mean sign_flip"):
        attack_named("sign_flop")
    with pytest.raises(BadInput, match="attack: unknown key"):
        config(attack={"name": "noise"})


def test_the_command_shows_both_runs_beside_each_other(run_yaml):
    given = ["attack", str(run_yaml), "rounds=1", "--attack", "backdoor", "--seeds", "0,1"]
    shown = CliRunner().invoke(app, given, env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    for text in ("accuracy", "attacked", "phrase obeyed", "refused", "mean"):
        assert text in shown.output
