"""Configs: what is wrong is said by field, value and what would be right; nothing else escapes."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.config import Config, EngineConfig, LoraSettings, dump_config, load_config, parse_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.engines.flower.settings import SiteConfig, load_settings
from rolora.records.rundir import read_run_config


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(raw):
    with pytest.raises(BadInput) as error:
        parse_config(raw)
    return str(error.value)


def test_every_key_is_optional(tmp_path):
    assert load_config(write(tmp_path, "")) == Config() == parse_config({})


def test_the_issue_s_shape_is_accepted(tmp_path):
    text = """
    seed: 0
    rounds: 20
    model:      {name: minilm, head: frozen, dtype: auto}
    lora:       {r: 4, lora_alpha: 16, target_modules: [query, value], layers: all}
    data:       {name: rotten_tomatoes}
    partition:  {name: dirichlet, dirichlet_alpha: 0.5}
    federation: {clients: 10, clients_per_round: 10, quorum: 0.5}
    method:     {name: rolora, gauge: none}
    optimizer:  {name: adamw, lr: 2.0e-3, lr_b: null, state: reset, local_steps: 5, batch_size: 16}
    server:     {optimizer: fedavg}
    evaluation: {every: 2}
    engine:     {name: in_process}
    """
    config = load_config(write(tmp_path, text))
    assert config.lora.target_modules == ("query", "value")
    assert config.optimizer.lr == 2e-3


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"roundz": 3}, ["roundz: unknown key", "did you mean rounds?", "known:", "seed"]),
        ({"privacy": {"noise_multiplier": 1}}, ["privacy.clip: must be given"]),
        ({"lora": {"rank": 3}}, ["lora.rank: unknown key", "lora_alpha"]),
        ({"optimizer": {"learning_rate": 1}}, ["optimizer.learning_rate: unknown key", "lr"]),
        (
            {"data": {"path": "x", "text": "t", "label": "l", "options": {"sap": ";"}}},
            ["data.options.sap: unknown key (did you mean sep?"],
        ),
        (
            {"data": {"path": "x", "text": "t", "label": "l", "options": {"encoding": "latin_11"}}},
            ["data.options.encoding: 'latin_11' is no encoding (did you mean latin-1?"],
        ),
        (
            {"data": {"path": "x", "text": "t", "label": "l", "options": {"encoding": "base64"}}},
            ["data.options.encoding: 'base64' is no encoding"],
        ),
        ({"data": {"name": "imdb", "options": {"sep": ";"}}}, ["data: options", "no path"]),
        ({"lora": {"r": 0}}, ["lora.r = 0", "greater than or equal to 1"]),
        ({"lora": {"r": "four"}}, ["lora.r = 'four'", "valid integer"]),
        ({"lora": {"layers": "upper"}}, ["lora.layers = 'upper'", "pattern"]),
        ({"lora": {"layers": "0-9999999999"}}, ["lora.layers = '0-9999999999'", "pattern"]),
        ({"model": {"head": "freeze"}}, ["model.head = 'freeze'", "'frozen'", "mean frozen?"]),
        ({"optimizer": {"lr": -1}}, ["optimizer.lr = -1", "greater than 0"]),
        ({"optimizer": {"lr": float("nan")}}, ["optimizer.lr = nan"]),
        ({"optimizer": {"local_epochs": 1}}, ["optimizer: give either local_steps or"]),
        ({"partition": {"name": "field"}}, ["partition: partition by field needs field"]),
        ({"federation": {"clients": 3, "clients_per_round": 4}}, ["clients_per_round = 4", "= 3"]),
        ({"federation": {"quorum": 0}}, ["federation.quorum = 0", "greater than 0"]),
        ({"data": {"name": "a", "path": "b"}}, ["data: give name or path, not both"]),
        ({"seed": -1}, ["seed = -1", "greater than or equal to 0"]),
        ({"seed": True, "rounds": []}, ["rounds = []", "valid integer"]),
        ({"model": "minilm"}, ["model = 'minilm'", "dictionary"]),
        ({"method": {"schedule": "BAC"}}, ["method.schedule = 'BAC'", "pattern"]),
        ({1: 2}, ["1"]),
    ],
)
def test_what_is_wrong_is_said_by_field_value_and_what_would_be_right(raw, words):
    message = refused(raw)
    assert all(word in message for word in words), message


def test_every_wrong_field_has_a_line():
    message = refused({"rounds": 0, "lora": {"r": 0}, "engine": {"stak": 2}})
    assert message.count("\n") == 3
    assert "did you mean stack?" in message


def test_a_long_value_is_cut():
    message = refused({"rounds": "x" * 1000})
    assert len(message) < 200


def test_a_number_too_long_to_print_is_refused(tmp_path):
    path = write(tmp_path, "model: {name: 0x" + "f" * 10_000 + "}")
    with pytest.raises(BadInput, match=r"model.name = a value too long to show: .*string"):
        load_config(path)


def test_the_scientific_notation_that_yaml_reads_as_text_is_a_number(tmp_path):
    config = load_config(write(tmp_path, "optimizer: {lr: 2e-3, eps: 1E-8}"))
    assert config.optimizer.lr == 2e-3
    assert load_config(write(tmp_path, ""), ["optimizer.lr=5e-4"]).optimizer.lr == 5e-4


def test_overrides_reach_every_depth_and_win(tmp_path):
    path = write(tmp_path, "lora: {r: 8}\nrounds: 3")
    config = load_config(
        path,
        [
            "lora.r=2",
            "seed=7",
            "lora.target_modules=[a, b]",
            "optimizer.local_steps=null",
            "optimizer.local_epochs=2",
            "model.name=a=b",
        ],
    )
    assert (config.lora.r, config.seed, config.rounds) == (2, 7, 3)
    assert config.lora.target_modules == ("a", "b")
    assert (config.optimizer.local_steps, config.optimizer.local_epochs) == (None, 2)
    assert config.model.name == "a=b"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rounds", ["override 'rounds'", "key.path=value"]),
        ("=3", ["override '=3'", "key.path=value"]),
        ("rounds.of=3", ["override 'rounds.of=3'", "rounds is 3", "no keys"]),
        ("lora.rr=3", ["lora.rr: unknown key", "did you mean r?"]),
        ("rounds=[", ["override 'rounds=['", "not a YAML value"]),
        ("rounds=many", ["rounds = 'many'", "valid integer"]),
    ],
)
def test_a_wrong_override_is_named(tmp_path, override, words):
    with pytest.raises(BadInput) as error:
        load_config(write(tmp_path, "rounds: 3"), [override])
    assert all(word in str(error.value) for word in words), error.value


def test_overrides_alone_make_a_section():
    section = parse_overrides(EngineConfig, ["stack=4"], "engine")
    assert section.stack == 4
    with pytest.raises(BadInput, match=r"^here: stack = 0: .*greater than or equal to 1"):
        parse_overrides(EngineConfig, ["stack=0"], "here")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rounds: [1", "not valid YAML"),
        (b"- 1\n- 2", "holds a list; it must be a mapping"),
        (b"just text", "holds text; it must be a mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: !!python/object:os.system x", "not valid YAML"),
        (b"seed: !!bool maybe", "not valid YAML"),
        (b"seed: !!int ''", "not valid YAML"),
        (b"seed: !!float ''", "not valid YAML"),
        (b"seed: !!timestamp when", "not valid YAML"),
        (b"seed: 2001-99-99", "not valid YAML"),
        (b"? [a]\n: 1", "not valid YAML"),
        (b"seed: " + b"[" * 5000, "not valid YAML"),
        (b"a: &a {b: *a}", "line 1: *a is an alias; write the value out"),
        (b"a: &a [1]\n<<: *a", "line 2: *a is an alias"),
        (b"seed: 1\nrounds: 2\nseed: 3", "line 3: the key 'seed' stands twice, first in line 1"),
        (b"lora:\n  r: 1\n  'r': 2", "line 3: the key 'r' stands twice, first in line 2"),
        (b'model: {name: "\\ud800"}', "lone surrogate"),
        (b"seed: " + b"9" * 5000, "not valid YAML"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, words):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        load_config(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


BOMB = "a: &a [9,9,9,9,9,9,9,9,9]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.timeout(10)
def test_a_few_lines_that_stand_for_a_billion_values_are_refused_at_once(tmp_path):
    assert len(BOMB) < 400
    with pytest.raises(BadInput, match=r"not valid YAML \(line 2: \*a is an alias"):
        load_config(write(tmp_path, BOMB))
    with pytest.raises(BadInput, match="not a YAML value"):
        load_config(write(tmp_path, ""), ["lora.r={a: &a [1, 1], b: *a}"])
    with pytest.raises(BadInput, match=r"^--config .*config.yaml: not valid YAML"):
        load_settings(SiteConfig, write(tmp_path, BOMB))
    with pytest.raises(BadInput, match=r"not a run directory, config.yaml: not valid YAML"):
        read_run_config(write(tmp_path, BOMB).parent)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(BadInput, match="cannot be read") as error:
            load_config(path)
        assert str(path) in str(error.value)


def test_the_resolved_config_says_everything_and_reads_back(tmp_path):
    config = parse_config({"lora": {"client_ranks": [1, 2]}, "data": {"name": "imdb"}, "seed": 3})
    text = dump_config(config)
    assert load_config(write(tmp_path, text)) == config
    shown = yaml.safe_load(text)
    assert set(shown) == set(Config.model_fields)
    assert set(shown["engine"]) == set(EngineConfig.model_fields)


def test_data_that_say_nothing_of_a_source_keep_the_default_one():
    assert parse_config({"data": {"limit": 300}}).data.name == Config().data.name
    sites = parse_config({"data": {"text": "note", "label": "kind", "labels": ["a", "b"]}})
    assert sites.data.name is None  # a federation's, whose data are the sites' own
    assert parse_config({"data": sites.data.model_dump(mode="json")}).data.name is None


def test_a_path_is_taken_from_where_it_was_written(tmp_path, monkeypatch):
    """In a config from where that lies, in the shell from the working directory."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write(tmp_path / "project", "data: {path: ../d.csv, text: a, label: b}")
    assert load_config(path).data.path == tmp_path / "d.csv"
    assert load_config(Path("../project/config.yaml")).data.path == tmp_path / "d.csv"
    typed = load_config(path, ["data.path=d.csv"])
    assert typed.data.path == tmp_path / "elsewhere/d.csv"
    again = write(tmp_path, dump_config(typed))  # as a run directory has it
    assert load_config(again) == typed
    assert load_config(path, ["data.path=~/d.csv"]).data.path == Path("~/d.csv")


def test_ranks_repeat_over_clients():
    lora = LoraSettings(client_ranks=(1, 4, 2))
    assert [lora.rank_of(client) for client in range(5)] == [1, 4, 2, 1, 4]
    assert (lora.max_rank, LoraSettings(r=3).max_rank) == (4, 3)


def test_the_quickstart_is_the_papers_rolora_with_four_pieces_and_a_rate_of_its_own():
    """What docs/beyond.md decided, and nothing else."""
    two = ["method.gauge=orthonormal", "optimizer.state=transport"]
    assert load_config("gauge") == load_config("paper", two)
    more = ["objective.logit_adjustment=1", "server.weighting=information", "optimizer.lr=2.5e-3"]
    assert load_config("quickstart") == load_config("paper", [*two, *more])


# Fuzzing -----------------------------------------------------------------------------------

sections = {
    name: list(getattr(field.annotation, "model_fields", []))
    for name, field in Config.model_fields.items()
}
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["2e-3", "1e999", "-inf", "0x1", "all", "1-", "rolora", "field"]),
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain.filter(hash), inner),
    max_leaves=5,
)


@st.composite
def raw_configs(draw):
    """Mappings of known and unknown keys to any values."""
    raw = {}
    for name in draw(st.sets(st.sampled_from([*sections, "other"]), max_size=4)):
        keys = [*sections.get(name, []), "unknown"]
        raw[name] = draw(values | st.dictionaries(st.sampled_from(keys), values, max_size=3))
    return raw


@hypothesis_settings(max_examples=300)
@given(raw_configs())
def test_any_mapping_is_a_config_or_bad_input(raw):
    try:
        config = parse_config(raw)
    except BadInput as error:
        assert str(error).startswith("config:")  # noqa: PT017
    else:
        assert parse_config(yaml.safe_load(dump_config(config))) == config


@hypothesis_settings(max_examples=200)
@given(raw_configs(), st.lists(st.text(max_size=12), max_size=2))
def test_any_yaml_file_and_override_is_a_config_or_bad_input(tmp_path, raw, overrides):
    path = write(tmp_path, yaml.dump(raw, allow_unicode=True))
    attempt(path, overrides)


tags = ["!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!binary", "!!set", "!!omap", "!!x"]
pieces = st.sampled_from(
    [*tags, *sections, "a", "1", ":", "-", "?", "[", "]", "{", "}", ",", "&a", "*a", "<<", "|", ">",
     "\n", "  ", " ", "'", '"', "#", "%", "@", "=", "~", ".inf", "1e3", "0x", "0b", "\t", "---"]
)  # fmt: skip


@hypothesis_settings(max_examples=400)
@given(st.lists(pieces, max_size=14).map("".join), st.lists(pieces, max_size=6).map("".join))
def test_any_text_is_a_config_or_bad_input(tmp_path, text, override):
    attempt(write(tmp_path, text), [])
    attempt(write(tmp_path, ""), [f"lora.r={override}"])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_config_or_bad_input(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    attempt(path, [])


def attempt(path, overrides):
    try:
        load_config(path, overrides)
    except BadInput as error:
        assert str(error)  # noqa: PT017
