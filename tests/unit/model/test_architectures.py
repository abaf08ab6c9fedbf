"""Every architecture that PEFT or this library has default targets for: what is adapted, and what
PEFT and Transformers make of the directory that a run leaves.
"""

import json

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, TaskType
from peft import get_peft_model as peft_of
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import small
from rolora.config import ModelConfig
from rolora.model.loading import build_lora_model, load_pretrained
from rolora.model.peft_format import check_adapter, describe_adapters, save_adapter
from rolora.model.targets import DEFAULTS, match_targets

ALL = sorted(small.ARCHITECTURES | small.OTHERS)
LABELS = ("no", "maybe", "yes")
TEXTS = ["w1 w2 w3", "w9", "w4 w4 w30 w41 w5 w17"]


def pretrained(directory):
    return load_pretrained(ModelConfig(name=str(directory), device="cpu"), LABELS, seed=0)


def config_of(directory, targets=None, **lora):
    return small.config(
        model={"name": str(directory), "device": "cpu"},
        lora={"target_modules": targets, **lora},
        data={"max_length": 16},
    )


def lively(model, seed=0):
    """An adapter of which everything counts."""
    generator = torch.Generator().manual_seed(seed)
    adapter = model.initial_adapter(2, 0)
    drawn = {
        key: tensor if key[1] == "head" else 0.3 * torch.randn(tensor.shape, generator=generator)
        for key, tensor in adapter.items()
    }
    return type(adapter).of(drawn)


def saved(directory, path, targets=None):
    """A model with a lively adapter, which is saved in `path`."""
    config, loaded = config_of(directory, targets), pretrained(directory)
    model = build_lora_model(loaded, config)
    adapter = lively(model)
    save_adapter(path, adapter, model, loaded, config)
    return config, loaded, model, adapter


def mounted(model, adapters, scaling=4.0):
    """The adapters side by side, with gradients."""
    tensors = {}
    for key in adapters[0]:
        tensors[key] = torch.stack([adapter[key] for adapter in adapters]).requires_grad_()
    model.mount({k: t for k, t in tensors.items() if k[1] != "head"}, [scaling] * len(adapters))
    return tensors


def copied(path, monkeypatch):
    """What the lines of the card leave behind, run beside the adapter as they stand."""
    code = (path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(path)
    left = {}
    exec(code, left)
    return left


def test_every_default_of_ours_is_looked_at():
    assert set(DEFAULTS) <= set(ALL)
    assert not set(DEFAULTS) & set(THEIRS)  # where PEFT has one, it is PEFT's


@pytest.mark.parametrize("architecture", [*ALL, "minilm"])
def test_the_lines_of_the_card_compute_what_the_run_s_model_does(
    model_dir, tmp_path, architecture, monkeypatch, capsys
):
    """The same logits and gradients, with the directory's own tokenizer, labels and padding."""
    path = tmp_path / "adapter"
    directory = architecture if architecture == "minilm" else model_dir(architecture)
    _, _, model, adapter = saved(directory, path)
    check_adapter(path, pytest.fail)
    left = copied(path, monkeypatch)
    assert capsys.readouterr().out.strip() in {f"['{label}']" for label in LABELS}
    assert tuple(left["config"].id2label[i] for i in range(3)) == LABELS
    batch = left["tokenizer"](TEXTS, padding=True, return_tensors="pt")
    lora = {n: p for n, p in left["model"].named_parameters() if ".lora_" in n}
    for parameter in lora.values():
        parameter.requires_grad_()
    wanted = left["model"](**batch).logits
    tensors = mounted(model, [adapter])
    ours = model.logits(batch)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * direction).sum().backward()
    (wanted * direction).sum().backward()
    for (module, part), tensor in tensors.items():
        if part != "head":
            theirs = lora[f"base_model.model.{module}.lora_{part}.default.weight"].grad
            torch.testing.assert_close(tensor.grad[0], theirs, rtol=1e-3, atol=1e-4)
    check_stacked(model, adapter, batch, ours.detach())


def check_stacked(model, adapter, batch, alone):
    """Beside another client it computes what it computes alone, and not what the other does."""
    mounted(model, [lively(model, seed=1), adapter])
    twice = {name: torch.cat([column, column]) for name, column in batch.items()}
    other, again = model.logits(twice).detach().split(len(alone))
    torch.testing.assert_close(again, alone, rtol=1e-5, atol=1e-5)
    assert (other - alone).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ALL)
def test_all_linear_is_pefts_and_leaves_the_head_out(model_dir, architecture):
    loaded = pretrained(model_dir(architecture))
    chosen = config_of("x", "all-linear").lora
    ours = match_targets(loaded.module, loaded.model_type, chosen, loaded.head)
    owners = {name.rpartition(".")[0] for name in loaded.head}
    assert ours
    assert not owners & set(ours)
    if architecture == "distilbert":  # whose pre_classifier PEFT adapts and saves, and refuses
        assert all(name.startswith("distilbert.") for name in ours)
        return
    theirs = peft_of(
        loaded.module, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules="all-linear")
    )
    assert set(ours) == set(theirs.base_model.targeted_module_names) - owners


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "llama"])
def test_an_expression_adapts_what_it_adapts_in_peft(model_dir, architecture):
    expression = r".*\.1\..*(query|q_lin|c_attn|q_proj)"
    loaded = pretrained(model_dir(architecture))
    chosen = config_of("x", expression).lora
    ours = match_targets(loaded.module, loaded.model_type, chosen, loaded.head)
    peft = peft_of(loaded.module, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=expression))
    assert ours == peft.base_model.targeted_module_names
    assert len(ours) == 1


def test_all_linear_keeps_to_the_layers_that_are_named(model_dir):
    loaded = pretrained(model_dir("bert"))
    chosen = config_of("x", "all-linear", layers="1").lora
    found = match_targets(loaded.module, loaded.model_type, chosen, loaded.head)
    assert len(found) == 6
    assert all(".layer.1." in name for name in found)


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("albert", ["query"]),
        ("deberta-v2", [r"deberta.encoder.layer.1.attention.self.query_proj"]),
        ("mpnet", ["mpnet.encoder.layer.1.attention.attn.q"]),
        ("t5", ["transformer.encoder.block.1.layer.0.SelfAttention.q"]),
        ("bart", ["model.encoder.layers.1.self_attn.q_proj"]),
        ("mobilebert", ["mobilebert.encoder.layer.1.attention.self.query"]),
        ("ernie", ["ernie.encoder.layer.1.attention.self.query"]),
    ],
)
def test_the_cache_of_frozen_layers_changes_nothing(model_dir, architecture, targets):
    """It is put in place where that is sound, or not at all."""
    config = config_of(model_dir(architecture), targets)
    found = []
    for cache_mb in (0, 16):
        loaded = pretrained(model_dir(architecture))
        batch = loaded.tokenizer(TEXTS, padding=True, return_tensors="pt")
        engine = config.engine.model_copy(update={"cache_mb": cache_mb})
        model = build_lora_model(loaded, config.model_copy(update={"engine": engine}))
        mounted(model, [lively(model)])
        rows = range(3)
        found += [model.logits(batch, rows).detach(), model.logits(batch, rows).detach()]
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=1e-5, atol=1e-5)


def test_albert_with_groups_of_shared_layers_has_no_cache_below_them(model_dir, tmp_path):
    """Group 0 is passed twice before group 1 is: its activations are not those of one pass."""
    raw = AutoConfig.from_pretrained(model_dir("albert")).to_dict()
    config = AutoConfig.for_model(**raw | {"num_hidden_groups": 2, "num_hidden_layers": 4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    small.tokenizer().save_pretrained(tmp_path)
    settings = config_of(tmp_path, ["query"], layers="1")
    model = build_lora_model(pretrained(tmp_path), settings)
    assert all(".albert_layer_groups.1." in name for name in model.layers)
    assert model.prefix is None


# The directory -------------------------------------------------------------------------------


def test_nothing_in_the_directory_names_a_path_of_this_machine(tmp_path):
    """The demo's model lies among the packages of an environment; it goes by its short name."""
    saved("minilm", tmp_path / "adapter")
    raw = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == "minilm"
    for file in (tmp_path / "adapter").iterdir():
        content = file.read_bytes()
        assert b"site-packages" not in content, file
        assert str(tmp_path).encode() not in content, file


def test_the_card_s_head_is_pefts(model_dir, tmp_path):
    from huggingface_hub import ModelCard

    saved(model_dir("bert"), tmp_path / "adapter")
    data = ModelCard.load(tmp_path / "adapter" / "README.md").data
    assert data.library_name == "peft"
    assert data.base_model == str(model_dir("bert"))
    assert f"base_model:adapter:{model_dir('bert')}" in data.tags
    assert data.pipeline_tag == "text-classification"


def test_the_auto_class_of_peft_finds_base_and_tokenizer(model_dir, tmp_path):
    _, _, model, adapter = saved(model_dir("bert"), tmp_path / "adapter")
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=3
    ).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "adapter")("w1 w2", return_tensors="pt")
    mounted(model, [adapter])
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch), theirs(**batch).logits)


def test_a_tokenizer_without_padding_comes_with_the_token_that_pads(tmp_path, model_dir):
    tokenizer = small.tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    base = AutoModelForSequenceClassification.from_pretrained(model_dir("gpt2"))
    base.config.pad_token_id = None
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    saved(tmp_path / "base", tmp_path / "adapter")
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").pad_token == "[SEP]"
    assert AutoConfig.from_pretrained(tmp_path / "adapter").pad_token_id == 3


def test_the_card_has_what_came_out_once_that_is_known(model_dir, tmp_path):
    import made_up
    from rolora.records.files import read_json
    from rolora.records.schema import Summary

    path = tmp_path / "adapter"
    config, loaded, model, adapter = saved(model_dir("bert"), path)
    save_adapter(path / "clients" / "7", adapter, model, loaded, config)
    assert "final test was not over" in (path / "README.md").read_text()
    run = made_up.make_run(tmp_path / "run")
    summary = read_json(run / "summary.json", Summary)
    describe_adapters(path, loaded, config, summary)
    for directory in (path, path / "clients" / "7"):
        text = (directory / "README.md").read_text()
        assert "RoLoRA: B in odd rounds, A in even" in text
        assert "6910 training, 767 validation, 853 test examples" in text
        assert f"| accuracy | {100 * summary.final.test['accuracy']:.1f} % | 50.4 % |" in text
        assert f"{summary.bytes_up / 2**20:.2f} MiB up" in text
        check_adapter(directory, pytest.fail)
