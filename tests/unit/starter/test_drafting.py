"""From a file to a config that runs: what is written, where, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.config import Config, load_config, parse_config
from rolora.core.errors import BadInput
from rolora.core.yaml_text import YamlError, parse_yaml
from rolora.starter import Choice, draft
from rolora.starter.sizes import fitting_length, fitting_range, fitting_schedule
from rolora.starter.wording import SECTIONS, worded
from shell import rolora

N = 120


def sentence(i, words=6):
    """Words that the small tokenizer knows; no two alike."""
    return " ".join(f"w{(7 * i + j * j + i // 60) % 60}" for j in range(words)) + f" w{i % 59}"


TABLES = {
    "classification": {
        "text": [sentence(i) for i in range(N)],
        "verdict": [["no", "yes"][i % 2] for i in range(N)],
        "site": [["north", "south", "east"][i // 3 % 3] for i in range(N)],
    },
    "pairs": {
        "premise": [sentence(i) for i in range(N)],
        "hypothesis": [sentence(i + 5, 3) for i in range(N)],
        "label": [i % 3 for i in range(N)],
    },
    "regression": {
        "id": list(range(N)),
        "sentence": [sentence(i) for i in range(N)],
        "score": [round(0.3 + (i * 37 % 41) / 10, 2) for i in range(N)],
    },
    "multilabel": {
        "note": [sentence(i) for i in range(N)],
        "tags": [["red|blue", "red", "", "green;blue"][i % 4] for i in range(N)],
    },
}


def write(path, table):
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(table)
        out.writerows(zip(*table.values(), strict=True))
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", TABLES)
def test_what_is_written_runs(task, tmp_path, bert, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    write(tmp_path / "my data.csv", TABLES[task])
    assert rolora("init", "--data", "my data.csv", "--model", bert) == 0
    said = capsys.readouterr().out
    assert "rolora run rolora.yaml" in said
    config = load_config(tmp_path / "rolora.yaml")
    assert config.task.name == ("classification" if task == "pairs" else task)
    assert config.data.label in said
    quick = ["rounds=1", "optimizer.local_steps=1", "engine.workers=1"]
    assert rolora("run", "rolora.yaml", *quick) == 0
    summary = json.loads((tmp_path / "runs/rolora/summary.json").read_text())
    assert len(summary["clients"]) == config.federation.clients
    assert all(len(line) <= 96 for line in (tmp_path / "rolora.yaml").read_text().splitlines())


def test_every_guess_is_a_comment_and_a_line(tmp_path, bert, capsys):
    write(tmp_path / "a.csv", TABLES["classification"] | {"age": [i % 70 + 20 for i in range(N)]})
    assert rolora("init", "--data", "a.csv", "--model", bert) == 0
    said, written = capsys.readouterr().out, (tmp_path / "rolora.yaml").read_text()
    whys = [
        "named as texts are, 7 words",
        "named as labels are",
        "one label a cell: no, yes",
        "named as sites are, 3 different",
        "95 of 100 texts have at most 9 tokens",
    ]
    for why in whys:
        assert f"# {why}" in written
        assert why in said
    assert "not used: age: numbers, 20 to 89" in said
    assert "# other columns: age: numbers, 20 to 89" in written
    config = parse_config(parse_yaml(written))
    assert config.partition.model_dump(include={"name", "field"}) == {
        "name": "field",
        "field": "site",
    }
    assert (config.federation.clients, config.data.max_length) == (3, 32)
    for name in set(SECTIONS) - {"rounds"}:
        assert f"# {SECTIONS[name]}\n{name}:" in written


def test_without_data_it_is_the_quickstart(tmp_path):
    made = draft(tmp_path / "new" / "place")
    assert made.config == load_config("quickstart") == parse_config(parse_yaml(made.text))
    assert made.write() == tmp_path / "new" / "place" / "rolora.yaml"
    assert draft(tmp_path, clients=3).config.federation.clients == 3
    other = draft(tmp_path, model="roberta-base").config
    assert (other.model.name, other.lora.layers) == ("roberta-base", "all")


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "rolora.yaml").write_text("mine")
    assert rolora("init") == 2
    assert "rolora.yaml: is there already, and is not overwritten" in capsys.readouterr().err
    made = draft(tmp_path / "b")
    made.write()
    with pytest.raises(BadInput, match="is there already"):  # written in between
        made.write()
    assert (tmp_path / "rolora.yaml").read_text() == "mine"
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "rolora.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is there already"):
        draft(tmp_path / "link")
    with pytest.raises(BadInput, match="is a file; name the directory"):
        draft(tmp_path / "rolora.yaml")


def test_the_path_is_taken_from_where_the_config_lies(tmp_path, bert):
    (tmp_path / "data").mkdir()
    file = write(tmp_path / "data" / "a.csv", TABLES["classification"])
    made = draft(tmp_path / "runs" / "one", file, model=bert)
    assert parse_yaml(made.text)["data"]["path"] == "../../data/a.csv"


def test_a_csv_of_another_encoding_is_read_as_it_is_named(tmp_path, bert, capsys):
    rows = [f"w{i} caf\xe9,{'yes' if i % 2 else 'no'}" for i in range(60)]
    (tmp_path / "d.csv").write_text("\n".join(["note,verdict", *rows]), encoding="latin-1")
    init = ("init", "--data", "d.csv", "--model", bert)
    assert rolora(*init) == 2
    assert rolora(*init, "--encoding", "latin1x") == 2
    assert "encoding: 'latin1x' is no encoding" in " ".join(capsys.readouterr().err.split())
    assert rolora(*init, "--encoding", "latin-1") == 0
    assert load_config(tmp_path / "rolora.yaml").data.options.encoding == "latin-1"
    assert rolora("init", "other", "--encoding", "latin-1") == 2


def test_a_csv_of_another_separator_is_read_and_said(tmp_path, bert):
    table = TABLES["classification"]
    lines = [";".join(map(str, row)) for row in (table, *zip(*table.values(), strict=True))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    config = draft(tmp_path, tmp_path / "a.csv", model=bert).config
    assert (config.data.options.sep, config.data.text, config.data.label) == (
        ";",
        "text",
        "verdict",
    )


def test_saved_splits_bring_their_test_and_their_class_names(tmp_path, bert):
    features = Features({"text": Value("string"), "y": ClassLabel(names=["dog", "cat"])})
    rows = {"text": TABLES["classification"]["text"], "y": [i % 2 for i in range(N)]}
    split = Dataset.from_dict(rows, features=features)
    DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "saved")
    made = draft(tmp_path, tmp_path / "saved", model=bert)
    assert made.said["task"].why == "one label a cell: dog, cat"
    assert made.config.federation.clients == 2
    DatasetDict({"fit": split}).save_to_disk(tmp_path / "alone")
    assert draft(tmp_path, tmp_path / "alone", model=bert).config.data.train_split == "fit"
    DatasetDict({"a": split, "b": split}).save_to_disk(tmp_path / "several")
    with pytest.raises(BadInput, match="holds the splits a, b; name the file to train on"):
        draft(tmp_path, tmp_path / "several", model=bert)


def test_the_range_holds_the_scores_of_every_split_but_hidden_ones(tmp_path, bert):
    table = TABLES["regression"]
    for name, shift in (("train", 0), ("test", 3), ("validation", None)):
        scores = [-1 if shift is None else s + shift for s in table["score"]]
        write(tmp_path / f"{name}.csv", table | {"score": scores})
    made = draft(tmp_path / "to", tmp_path, model=bert)
    assert made.config.task.options == {"range": [0.0, 8.0]}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, ["--data", "none.csv"], "--data none.csv: there is no such file"),
        ({}, ["--data", "a.csv", "--task", "clasification"], "did you mean classification"),
        ({}, ["--task", "regression"], "are about --data FILE"),
        (
            {},
            ["--data", "a.csv", "--label", "verdict", "--task", "regression"],
            "needs a column of",
        ),
        (
            {"verdict": ["no", "yes"] * (N // 2 - 1) + ["no", ""]},
            ["--data", "a.csv"],
            "row 120 of .* is missing",
        ),
        ({"text": ["", *["w1 w2"] * (N - 1)]}, ["--data", "a.csv"], "row 1 of"),
        ({"verdict": range(N)}, ["--data", "a.csv", "--label", "site", "--clients", "90"], "90"),
        ({"text": [], "verdict": [], "site": []}, ["--data", "a.csv"], "holds no rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_not_run_is_refused_and_nothing_written(
    change, options, words, tmp_path, bert, capsys
):
    write(tmp_path / "a.csv", TABLES["classification"] | change)
    assert rolora("init", *options, "--model", bert) == 2
    assert re.search(words, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "rolora.yaml").exists()


# Sizes -------------------------------------------------------------------------------------


def test_the_length_fits_95_of_100_texts(bert):
    short, long = ["w1 " * 20] * 96, ["w1 " * 60] * 4
    assert fitting_length(short + long, None, bert).value == "32"
    assert "at most 22 tokens; longer ones are cut" in fitting_length(short + long, None, bert).why
    assert fitting_length(short[:90] + ["w1 " * 50] * 10, None, bert).value == "64"
    assert fitting_length(short, short, bert).value == "64"
    assert fitting_length(["w1 " * 500], None, bert).value == "64"  # the tokenizer's most
    assert fitting_length(["w"], None, bert).value == "32"


def test_without_the_model_words_are_counted(tmp_path):
    found = fitting_length(["w1 " * 40] * 5, None, str(tmp_path / "none"))
    assert (found.value, "by their words" in found.why) == ("64", True)
    assert fitting_length(["w"] * 5, ["w1 " * 60] * 5, str(tmp_path / "none")).value == "96"
    assert fitting_length(["w1 " * 5000], None, str(tmp_path / "none")).value == "512"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0.3, 4.9], (0, 5)), ([1, 5], (1, 5)), ([12.5, 4811], (0, 5000)), ([0.02, 0.98], (0, 1)),
     ([-3.2, 3.3], (-4, 4)), ([0.1, 0.3], (0.1, 0.3))],
)  # fmt: skip
def test_the_range_is_rounded_outwards(values, wanted):
    assert fitting_range(values) == pytest.approx(wanted)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2))
def test_any_range_holds_its_values(values):
    if min(values) == max(values):
        with pytest.raises(BadInput, match="nothing to learn"):
            fitting_range(values)
    else:
        low, high = fitting_range(values)
        assert low <= min(values) < max(values) <= high


@pytest.mark.parametrize("rows", [10, 60, 120, 500, 3000, 10**6])
@pytest.mark.parametrize("clients", [None, 2, 40])
def test_a_schedule_is_one_that_a_config_takes(rows, clients):
    found = fitting_schedule(rows, clients)
    assert found.clients == clients or clients is None
    assert found.rounds % 2 == 0
    assert 2 <= found.local_steps <= 10
    assert found.per_round == (10 if found.clients > 20 else None)
    assert np.isclose(found.rounds * found.local_steps, 200, atol=121)


# Wording -----------------------------------------------------------------------------------


@hypothesis_settings(max_examples=200)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=60))
def test_any_name_of_a_column_is_read_back_or_refused(text, label, note):
    raw = {"data": {"path": "a.csv", "text": text, "label": label}, "rounds": 2}
    written = worded(raw, note, {"data.text": note, "data.label": text})
    try:
        found = parse_yaml(written)
    except YamlError as error:
        assert "surrogate" in str(error)  # noqa: PT017
    else:
        assert found == raw


def test_every_section_that_is_written_is_one_of_a_config():
    assert set(SECTIONS) <= set(Config.model_fields)
    assert Choice() == Choice(text=None)
