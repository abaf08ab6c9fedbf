"""Rates by validation: what a search leaves, costs, survives and refuses."""

from __future__ import annotations

import json

import pytest

import rolora
from rolora.config import load_config, parse_config
from rolora.core.errors import BadInput
from rolora.core.search import rungs_of
from shell import rolora as shell

ROUNDS, RATES, SEEDS = 9, (1e-3, 1e-2, 1e-1), (100, 101)
RECORDS = [
    {"text": f"w{n % 2} w{n % 7 + 8} w{n % 11 + 20}", "label": ["no", "yes"][n % 2]}
    for n in range(80)
]


@pytest.fixture(scope="module")
def config(model_dir):
    return parse_config(
        {
            "rounds": ROUNDS,
            "model": {"name": str(model_dir("bert"))},
            "lora": {"r": 2, "lora_alpha": 8, "layers": "2"},
            "data": {"max_length": 16, "validation": 0.3},
            "federation": {"clients": 2},
            "optimizer": {"lr": 0.02, "local_steps": 1, "batch_size": 8},
            "engine": {"workers": 1},
        }
    )


def tuned(config, directory, **options):
    given = {"rates": RATES, "seeds": SEEDS, "notice": lambda line: None, **options}
    return rolora.tune(config, train=RECORDS, out=directory, **given)


@pytest.fixture(scope="module")
def found(config, tmp_path_factory):
    directory, said = tmp_path_factory.mktemp("tuned"), []
    return tuned(config, directory, notice=said.append), said


def lines(directory):
    """The rounds in every run's metrics, by its place."""
    return {
        str(path.parent.relative_to(directory)): [
            json.loads(line)["round"] for line in path.read_text().splitlines()
        ]
        for path in directory.rglob("metrics.jsonl")
    }


def test_it_costs_at_most_a_third_of_a_full_grid_in_rounds_that_were_trained(found):
    run, said = found
    trained, tuning = lines(run.directory), run.tuning
    tried = tuning.methods["rolora"].tried
    assert {f"rolora/lr-{one.rate:g}/seed-{seed}" for one in tried for seed in SEEDS} == set(
        trained
    )
    assert tuning.trained == sum(map(len, trained.values()))
    assert tuning.full == len(tried) * len(SEEDS) * ROUNDS
    assert 3 * tuning.trained <= tuning.full
    assert all(rounds == list(range(1, len(rounds) + 1)) for rounds in trained.values())
    assert {len(rounds) for rounds in trained.values()} <= set(rungs_of(ROUNDS))
    assert len(said) == len(SEEDS) * sum(len(one.scores) for one in tried)


def test_the_rate_is_the_best_mean_validation_score_of_the_runs(found):
    run, _ = found
    method = run.tuning.methods["rolora"]
    for one in method.tried:
        for rung, by_seed in one.scores.items():
            for seed, score in by_seed.items():
                path = run.directory / "rolora" / f"lr-{one.rate:g}" / f"seed-{seed}"
                records = (path / "metrics.jsonl").read_text().splitlines()
                at = json.loads(records[int(rung) - 1])
                assert at["validation"]["accuracy"] == score
    means = {one.rate: one.mean(method.rung) for one in method.tried}
    assert means[method.rate] == max(mean for mean in means.values() if mean is not None)
    assert len(run.table) == sum(len(s) for one in method.tried for s in one.scores.values())


def test_the_config_with_the_rate_is_written_and_is_the_configs_own_otherwise(found, config):
    run, _ = found
    written = load_config(run.directory / "rolora.yaml")
    assert written == run.config() == run.config("rolora")
    assert written.optimizer.lr == run.rates["rolora"]
    plain = written.optimizer.model_copy(update={"lr": config.optimizer.lr})
    assert written.model_copy(update={"optimizer": plain, "data": config.data}) == config
    assert (run.directory / "tuning.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match=r"method = 'rolara': has no rate.*did you mean rolora"):
        run.config("rolara")


def test_a_killed_search_goes_on_where_it_was_and_finds_the_same(found, config, tmp_path):
    whole, said = found
    for stop in (1, len(said) - 1):
        heard = []

        def ends(line, heard=heard, stop=stop):
            heard.append(line)
            if len(heard) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tuned(config, tmp_path, notice=ends)
        assert not (tmp_path / "tuning.json").exists()
    again = tuned(config, tmp_path)
    assert again.tuning == whole.tuning
    assert lines(tmp_path) == lines(whole.directory)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    assert tuned(config, tmp_path).tuning == whole.tuning
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_runs_of_another_config_are_not_taken_for_its_own(found, config):
    run, _ = found
    other = config.model_copy(update={"lora": config.lora.model_copy(update={"lora_alpha": 4.0})})
    with pytest.raises(BadInput, match=r"lora.lora_alpha = 4.0, and was 8.0"):
        tuned(other, run.directory)


def test_a_rate_at_which_a_run_fails_is_told_and_not_chosen(config, tmp_path):
    said = []
    short = config.model_copy(update={"rounds": 3})
    run = tuned(short, tmp_path, rates=(1e-2, 1e38), notice=said.append)
    method = run.tuning.methods["rolora"]
    assert method.rate == method.tried[0].rate <= 1e-2
    failed = {one.rate: one for one in method.tried}[1e38]
    assert failed.mean(1) is None
    assert any("failed" in line for line in said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (100,)}, r"seeds = \[100\].*two or more"),
        ({"seeds": (100, 100)}, r"seeds = .*two or more"),
        ({"seeds": (0, 100)}, r"seeds = \[0, 100\]: 0 is the config's own"),
        ({"rates": (2.0, 1.0)}, r"rates = \[2.0, 1.0\].*ascend"),
        ({"rates": ()}, r"rates = \[\]"),
        ({"methods": ["rolara"]}, r"'rolara'.*did you mean rolora"),
    ],
)
def test_what_makes_no_fair_choice_is_refused_before_anything_runs(
    config, tmp_path, options, message
):
    with pytest.raises(BadInput, match=message):
        tuned(config, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_sites_are_not_tuned_on(config, tmp_path):
    flower = config.model_copy(
        update={"engine": config.engine.model_copy(update={"name": "flower"})}
    )
    with pytest.raises(BadInput, match=r"engine.name = 'flower'.*in_process"):
        rolora.tune(flower, out=tmp_path)


def test_the_command_shows_a_table_and_writes_a_config_that_runs(
    bert, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{row['text']},{row['label']}" for row in RECORDS)
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}\n")
    (tmp_path / "run.yaml").write_text(
        f"rounds: 3\nmodel: {{name: {bert}}}\nlora: {{r: 2}}\n"
        "data: {path: data.csv, text: text, label: label, max_length: 16, validation: 0.3}\n"
        "federation: {clients: 2}\n"
        "optimizer: {lr: 0.02, local_steps: 1, batch_size: 8}\nengine: {workers: 1}\n"
    )
    options = ["--methods", "rolora,fedit", "--rates", "0.01,0.03", "--seeds", "7,8"]
    assert shell("tune", "run.yaml", *options) == 0
    said = capsys.readouterr().out
    assert "rolora, rate 0.01, seed 7: " in said
    assert "% of all" in " ".join(said.split())
    for method in ("rolora", "fedit"):
        assert shell("run", f"runs/run-tune/{method}.yaml", "--out", method) == 0
    assert shell("tune", "run.yaml", "--rates", "0.01,x") == 2
    assert "--rates '0.01,x': must be numbers" in capsys.readouterr().err
