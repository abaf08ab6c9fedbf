"""Bad input ends before round 1, with exit code 2 and one message, and leaves no run behind."""

import json
import shutil
import subprocess

import pytest
import yaml

from shell import rolora


def refused(capsys, tmp_path, *arguments):
    """The message with which a run is refused."""
    assert rolora("run", *arguments, "--out", tmp_path / "r") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "r").exists()
    return said


def rows_of(run_yaml):
    path = yaml.safe_load(run_yaml.read_text())["data"]["path"]
    with open(path) as file:
        return [json.loads(line) for line in file]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.path={path}"


OVERRIDES = {
    "data.path=~no.such.user/x.csv": "data.path = '~no.such.user/x.csv'",
    "lora.layers=0-99999": "lora.layers = '0-99999': the model has layers 0 to 2",
    "lora.layers=0-9999999999": "lora.layers = '0-9999999999'",
    "lora.layers=2-0": "lora.layers = '2-0'",
    "lora.r=33": "lora.r = 33",
    "data.max_length=70": "data.max_length = 70",
}


@pytest.mark.parametrize(("override", "words"), OVERRIDES.items(), ids=OVERRIDES)
def test_settings_that_cannot_be_meant(run_yaml, tmp_path, capsys, override, words):
    assert words in refused(capsys, tmp_path, run_yaml, override)


@pytest.mark.parametrize(
    ("content", "words"),
    [("seed: 1\nrounds: 2\nseed: 2", "line 3: the key 'seed' stands twice"), ("a: &a [*a]", "*a")],
)
def test_yaml_that_says_two_things(tmp_path, capsys, content, words):
    (tmp_path / "run.yaml").write_text(content)
    assert words in refused(capsys, tmp_path, tmp_path / "run.yaml")


def test_a_model_without_a_tokenizer(run_yaml, bert, tmp_path, capsys):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(f"{bert}/{name}", tmp_path / "bare")
    said = refused(capsys, tmp_path, run_yaml, f"model.name={tmp_path / 'bare'}")
    assert "its tokenizer knows special tokens alone" in said


def test_texts_of_which_the_tokenizer_knows_nothing_or_little(run_yaml, tmp_path, capsys):
    rows = rows_of(run_yaml)
    foreign = [{**row, "sentence": f"satz {i}"} for i, row in enumerate(rows)]
    said = refused(capsys, tmp_path, run_yaml, write_rows(tmp_path / "d.jsonl", foreign))
    assert "knows no token of the training texts" in said
    mixed = [{**row, "sentence": row["sentence"] + f" satz {i}"} for i, row in enumerate(rows)]
    override = write_rows(tmp_path / "d.jsonl", mixed)
    assert rolora("run", run_yaml, override, "rounds=1", "--out", tmp_path / "r") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("of the training texts' tokens are unknown") == 1


def test_half_a_character_in_a_text(run_yaml, tmp_path, capsys):
    rows = rows_of(run_yaml)
    rows[6]["sentence"] = "w1 \ud800"
    said = refused(capsys, tmp_path, run_yaml, write_rows(tmp_path / "d.jsonl", rows))
    assert "row 7 of" in said


def test_held_out_rows_of_no_client(run_yaml, tmp_path, capsys):
    rows = rows_of(run_yaml)
    (tmp_path / "d").mkdir()
    train = [{**row, "site": "abc"[i % 3]} for i, row in enumerate(rows)]
    write_rows(tmp_path / "d" / "train.jsonl", train)
    write_rows(tmp_path / "d" / "test.jsonl", [{**row, "site": "d"} for row in rows[:20]])
    options = [f"data.path={tmp_path / 'd'}", "partition.name=field", "partition.field=site"]
    said = refused(capsys, tmp_path, run_yaml, *options)
    assert "partition.field = 'site': 20 of 20 test examples (the first is row 1) have the" in said


# A finished run's adapter ------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(run_yaml, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "r"
    assert rolora("run", run_yaml, "rounds=1", "--out", path) == 0
    return path


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit of the weights": lambda d: flip(d / "adapter_model.safetensors", -5),
    "a bit of the header": lambda d: flip(d / "adapter_model.safetensors", 20),
    "a bit of the config": lambda d: flip(d / "adapter_config.json", 60),
    "the end": lambda d: (d / "adapter_model.safetensors").write_bytes(b"torn"),
    "no weights": lambda d: (d / "adapter_model.safetensors").unlink(),
    "no config": lambda d: (d / "adapter_config.json").unlink(),
    "the sums": lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\n\n"),
    "no adapter": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_not_exported(finished, tmp_path, capsys, damage):
    shutil.copytree(finished, tmp_path / "r")
    DAMAGE[damage](tmp_path / "r" / "adapter")
    assert rolora("export", tmp_path / "r", "--merge", tmp_path / "merged") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "adapter" in said
    assert not (tmp_path / "merged").exists()


def test_an_adapter_without_sums_is_exported_with_a_notice(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "r")
    (tmp_path / "r" / "adapter" / "SHA256SUMS").unlink()
    assert rolora("export", tmp_path / "r", "--merge", tmp_path / "merged") == 0
    assert "holds no SHA256SUMS" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "r" / "adapter" / "adapter_model.safetensors").write_bytes(b"torn")
    assert rolora("export", tmp_path / "r", "--merge", tmp_path / "again") == 2
    assert "no adapter that fits" in capsys.readouterr().err


def test_the_sums_are_those_that_sha256sum_checks(finished):
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=finished / "adapter", check=True)
