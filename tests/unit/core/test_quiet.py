"""What other libraries say stays off the terminal; what they raise, and what we say, does not."""

import logging
import warnings

import datasets
import pytest
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

import made_up
import small
from rolora.config import DataConfig, ModelConfig, dump_config
from rolora.core.quiet import quiet
from rolora.model.loading import build_lora_model, load_pretrained
from rolora.model.peft_format import save_adapter
from shell import rolora


def test_bars_warnings_and_levels_are_as_before_even_after_an_error():
    logger = logging.getLogger("transformers")
    before = (logger.level, transformers_logging.is_progress_bar_enabled())
    filters = list(warnings.filters)

    @quiet()
    def theirs():
        assert logger.level == logging.ERROR
        assert not transformers_logging.is_progress_bar_enabled()
        assert datasets.are_progress_bars_disabled()
        warnings.warn("not heard", FutureWarning, stacklevel=1)
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        theirs()
    assert before == (logger.level, transformers_logging.is_progress_bar_enabled())
    assert not datasets.are_progress_bars_disabled()
    assert filters == warnings.filters


def test_a_bar_that_asks_nobody_is_not_drawn_and_is_again_afterwards(capfd):
    """As that of Transformers over the tensors of a GGUF file."""
    with quiet():
        assert list(tqdm([1, 2], desc="theirs")) == [1, 2]
    assert capfd.readouterr().err == ""
    assert list(tqdm([1, 2], desc="theirs")) == [1, 2]
    assert "theirs" in capfd.readouterr().err


def test_threads_that_overlap_leave_all_as_it_was(capfd):
    """As two sites of one process that load a model: the first to come is the first to go."""
    logger, first, second = logging.getLogger("transformers"), quiet(), quiet()
    level = logger.level
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.ERROR
    second.__exit__(None, None, None)
    assert (logger.level, datasets.are_progress_bars_disabled()) == (level, False)
    assert list(tqdm([1, 2], desc="theirs")) == [1, 2]
    assert "theirs" in capfd.readouterr().err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_loading_saving_and_exporting_say_nothing_of_others(
    model_dir, tmp_path, architecture, capfd, recwarn
):
    """Data of 20 shards, for which datasets has a bar; weights, for which Transformers has two."""
    directory = str(model_dir(architecture))
    rows = {"text": ["w1 w2"] * 40, "mood": [0, 1] * 20}
    whole = datasets.Dataset.from_dict(rows)
    whole.save_to_disk(tmp_path / "data", num_shards=20)
    capfd.readouterr()
    recwarn.clear()
    data = DataConfig(path=tmp_path / "data", text="text", label="mood")
    with pytest.raises(Exception, match="too few to split"):  # read, and all of one text
        small.CLASSIFICATION.load(data, 0)
    run = made_up.make_run(tmp_path / "run")
    config = small.config(model={"name": directory, "device": "cpu"}, lora={"target_modules": None})
    (run / "config.yaml").write_text(dump_config(config))
    loaded = load_pretrained(ModelConfig(name=directory), ("negative", "positive"), seed=0)
    model = build_lora_model(loaded, config)
    save_adapter(run / "adapter", model.initial_adapter(2, 0), model, loaded, config)
    assert rolora("export", run, "--merge", tmp_path / "merged") == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.replace("\n", "") == f"merged model: {tmp_path / 'merged'}"
    assert [str(warning.message) for warning in recwarn] == []
