"""Stacked LoRA layers, target matching, the initial adapter."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

import small
from rolora.config import LoraSettings, ModelConfig
from rolora.core.errors import BadInput
from rolora.model.loading import load_pretrained
from rolora.model.lora import (
    LoraModel,
    StackedLayerNorm,
    StackedLinear,
    StackedLoRA,
    check_ranks,
)
from rolora.model.targets import layer_numbers, match_targets


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base_layer(kind, d_in, d_out, seed=0):
    layer = Conv1D(d_out, d_in) if kind == "conv1d" else nn.Linear(d_in, d_out, kind == "linear")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(draw(seed, *parameter.shape))
    return layer


# The layer ---------------------------------------------------------------------------------


@given(
    st.sampled_from(["linear", "unbiased", "conv1d"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_each_client_sees_its_own_factors_over_the_shared_weight(
    kind, K, n, d_in, d_out, r, with_delta, sequence, seed
):
    base = base_layer(kind, d_in, d_out, seed)
    layer = StackedLoRA(base)
    layer.A, layer.B = draw(seed + 1, K, r, d_in), draw(seed + 2, K, d_out, r)
    layer.scaling = torch.arange(1.0, K + 1).view(-1, 1, 1)
    layer.delta = draw(seed + 3, d_out, d_in) if with_delta else None
    x = draw(seed + 4, K * n, *([5] if sequence else []), d_in)
    y = layer(x)
    assert y.shape == (*x.shape[:-1], d_out)
    weight = (base.weight.T if kind == "conv1d" else base.weight).double()
    for k in range(K):
        merged = weight + (k + 1) * layer.B[k].double() @ layer.A[k].double()
        if with_delta:
            merged = merged + layer.delta
        rows = x[k * n : (k + 1) * n].double()
        expected = rows @ merged.T + (0 if base.bias is None else base.bias.double())
        torch.testing.assert_close(y[k * n : (k + 1) * n].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_square_layer_s_change_is_not_transposed(kind):
    base = base_layer(kind, 4, 4)
    layer = StackedLoRA(base)
    layer.delta = torch.zeros(4, 4)
    layer.delta[0, 3] = 1.0  # output 0 gains input 3
    x = torch.eye(4)
    change = (layer(x) - base(x)).detach()
    assert change[3, 0] == pytest.approx(1.0, abs=1e-6)
    assert change[0, 3] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("K", [1, 3])
def test_gradients_reach_the_factors_and_not_the_base(K):
    base = base_layer("linear", 3, 4).requires_grad_(False)
    layer = StackedLoRA(base)
    layer.A, layer.B = draw(1, K, 2, 3).requires_grad_(), draw(2, K, 4, 2).requires_grad_()
    layer.scaling = torch.full((K, 1, 1), 2.0)
    x = draw(3, 2 * K, 3)
    layer(x).square().sum().backward()
    assert base.weight.grad is None
    for k in range(K):
        A, B = (t[k].detach().requires_grad_() for t in (layer.A, layer.B))
        own = x[2 * k : 2 * k + 2]
        (base(own) + 2.0 * own @ A.T @ B.T).square().sum().backward()
        torch.testing.assert_close(layer.A.grad[k], A.grad)
        torch.testing.assert_close(layer.B.grad[k], B.grad)


def test_without_factors_the_base_runs_alone():
    base = base_layer("linear", 3, 4)
    x = draw(1, 2, 3)
    assert torch.equal(StackedLoRA(base)(x), base(x))


def test_dropout_drops_inputs_of_a_alone_and_is_drawn_from_the_rows_streams():
    base = base_layer("linear", 200, 200)
    layer = StackedLoRA(base, dropout_p=0.25, name="layer")
    layer.A, layer.B = torch.eye(200)[None], torch.eye(200)[None]
    x = torch.ones(5, 200)

    def dropped(seed):
        layer.streams = torch.arange(5) + 100 * seed
        return (layer(x) - base(x)).round(decimals=4)

    first = dropped(0)
    assert torch.equal(first, dropped(0))
    assert not torch.equal(first, dropped(1))
    values, counts = first.unique(return_counts=True)
    assert values.tolist() == pytest.approx([0.0, 4 / 3], abs=1e-3)
    assert counts[0] / counts.sum() == pytest.approx(0.25, abs=0.06)
    layer.streams = None  # evaluation
    torch.testing.assert_close(layer(x), base(x) + x)


@pytest.mark.parametrize("K", [1, 3])
def test_stacked_heads_equal_their_layers_one_by_one(K):
    linear, norm = base_layer("linear", 4, 6), nn.LayerNorm(4)
    weights, biases = draw(1, K, 6, 4), draw(2, K, 6)
    scales, shifts = draw(3, K, 4), draw(4, K, 4)
    stacked, stacked_norm = StackedLinear(linear), StackedLayerNorm(norm)
    stacked.weight, stacked.bias = weights, biases
    stacked_norm.weight, stacked_norm.bias = scales, shifts
    for x in (draw(5, 2 * K, 4), draw(6, 2 * K, 5, 4)):
        y, z = stacked(x), stacked_norm(x)
        for k in range(K):
            own = x[2 * k : 2 * k + 2]
            expected = nn.functional.linear(own, weights[k], biases[k])
            torch.testing.assert_close(y[2 * k : 2 * k + 2], expected)
            expected = nn.functional.layer_norm(own, (4,), scales[k], shifts[k])
            torch.testing.assert_close(z[2 * k : 2 * k + 2], expected)


# The model ---------------------------------------------------------------------------------


def mounted(model, adapter, s=2.0):
    model.mount({key: t if key[1] == "D" else t[None] for key, t in adapter.items()}, [s])


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_mounted_factors_and_base_changes_equal_merged_weights(seed):
    net, model = small.Net(), small.net_model()
    adapter = model.initial_adapter(3, seed=0)
    tensors = {key: draw(seed + i, *t.shape) for i, (key, t) in enumerate(adapter.items())}
    for name in small.TARGETS:
        layer = model.layers[name]
        tensors[name, "D"] = draw(seed + len(name), layer.d_out, layer.d_in)
    mounted(model, {key: t for key, t in tensors.items() if key[1] != "head"})
    with torch.no_grad():
        for name in small.TARGETS:
            merged = tensors[name, "D"] + 2.0 * tensors[name, "B"] @ tensors[name, "A"]
            weight = net.get_submodule(name).weight
            weight += merged.T if name == "conv" else merged
        x = draw(seed, 6, 10)
        torch.testing.assert_close(model.logits({"x": x}), net(x), rtol=1e-3, atol=1e-3)


def test_the_layout_is_that_of_the_initial_adapter_and_of_pefts():
    model = small.net_model()
    assert model.layout(3) == model.initial_adapter(3, 0).layout
    peft = get_peft_model(small.Net(), LoraConfig(r=3, target_modules=list(small.TARGETS)))
    theirs = {
        name.removeprefix("base_model.model."): tuple(p.shape)
        for name, p in peft.named_parameters()
        if "lora_" in name
    }
    ours = {
        f"{module}.lora_{part}.default.weight": shape
        for (module, part), shape in model.layout(3).entries
        if part != "head"
    }
    assert ours == theirs


def test_the_initial_adapter_is_a_function_of_the_seed_alone():
    model = small.net_model()
    torch.manual_seed(1)
    first = model.initial_adapter(4, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = model.initial_adapter(4, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.flat, again.flat)
    other, named = model.initial_adapter(4, seed=6), model.initial_adapter(4, 5, "round", 3)
    for name in small.TARGETS:
        assert not torch.equal(first[name, "A"], other[name, "A"])
        assert not torch.equal(first[name, "A"], named[name, "A"])
    assert not torch.equal(first["square", "A"], first["conv", "A"])  # both [4, 16]


def test_the_initial_adapter_has_pefts_distribution_and_the_models_head():
    model = small.net_model()
    adapter = model.initial_adapter(400, seed=0)
    for name in small.TARGETS:
        A, bound = adapter[name, "A"], model.layers[name].d_in ** -0.5
        assert not adapter[name, "B"].any()
        assert A.abs().max() <= bound
        assert A.abs().max() > 0.99 * bound
        assert A.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert A.mean() == pytest.approx(0.0, abs=0.05 * bound)
    for name in small.HEAD:
        assert torch.equal(adapter[name, "head"], small.Net().get_parameter(name))


def test_a_twin_shares_the_base_and_nothing_else():
    model = small.net_model(train_head=True)
    twin = model.twin()
    for name, layer in model.layers.items():
        assert twin.layers[name] is not layer
        assert twin.layers[name].base.weight is layer.base.weight
        assert twin.module.get_submodule(name) is twin.layers[name]
    adapter = model.initial_adapter(2, 0)
    mounted(model, adapter)
    assert twin.layers["wide"].A is None
    mounted(twin, adapter.overwrite({("wide", "B"): torch.ones(16, 2)}))
    x = draw(0, 3, 10)
    assert not torch.equal(model.logits({"x": x}), twin.logits({"x": x}))


def test_only_linear_and_conv1d_can_be_adapted():
    module = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))
    with pytest.raises(BadInput, match=r"target_modules: 0 is a LayerNorm"):
        LoraModel(module, ["0"])


def test_a_head_that_cannot_be_stacked_is_refused_when_it_is_to_train():
    module = nn.Sequential(nn.Linear(3, 2), nn.Bilinear(2, 2, 2))
    LoraModel(copy.deepcopy(module), ["0"], ["1.weight"])
    with pytest.raises(BadInput, match=r"model.head: 1 is a Bilinear.*head: frozen"):
        LoraModel(module, ["0"], ["1.weight"], train_head=True)


def test_parameters_are_counted_once_whether_the_head_trains_or_not():
    expected = sum(p.numel() for p in small.Net().parameters())
    assert small.net_model().num_parameters() == expected
    assert small.net_model(train_head=True).num_parameters() == expected


# Matching ----------------------------------------------------------------------------------

TARGETS = {
    "bert": [None, ["query", "value"], ["dense"], ["key", "attention.output.dense"]],
    "roberta": [None, ["query", "value"], ["dense"], ["intermediate.dense"]],
    "distilbert": [["q_lin", "v_lin"], ["lin1", "lin2", "out_lin"]],
    "modernbert": [["Wqkv", "Wo"], ["Wi"]],
}
CHOICES = [
    (architecture, target, layers)
    for architecture, targets in TARGETS.items()
    for target in targets
    for layers in ("all", "1-2", "0,2")
]


def pretrained(directory):
    return load_pretrained(ModelConfig(name=str(directory)), ["no", "yes"], seed=0)


def match(loaded, **settings):
    chosen = LoraSettings(**settings)
    return match_targets(loaded.module, loaded.model_type, chosen, loaded.head)


@pytest.mark.parametrize(("architecture", "target", "layers"), CHOICES)
def test_targets_are_those_that_peft_adapts(model_dir, architecture, target, layers):
    loaded = pretrained(model_dir(architecture))
    ours = match(loaded, target_modules=target, layers=layers)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        target_modules=target,
        layers_to_transform=layer_numbers(layers),
    )
    peft = get_peft_model(loaded.module, config)
    assert sorted(ours) == sorted(peft.base_model.targeted_module_names)
    assert not any("classifier" in name for name in ours)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_module_of_the_head_is_saved_whole_and_not_adapted(model_dir, architecture):
    loaded = pretrained(model_dir(architecture))
    body = loaded.module.base_model_prefix + "."
    linear = [n for n, m in loaded.module.named_modules() if isinstance(m, nn.Linear)]
    known = {name.rpartition(".")[2] for name in linear if name.startswith(body)}
    targets = match(loaded, target_modules=known)
    assert not {name.rpartition(".")[0] for name in loaded.head} & set(targets)
    LoraModel(loaded.module, targets, loaded.head, train_head=True)


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        ("all", None),
        ("2", [2]),
        ("2-4", [2, 3, 4]),
        ("12-14,20", [12, 13, 14, 20]),
        ("0,0", [0, 0]),
    ],
)
def test_layer_numbers(layers, numbers):
    assert layer_numbers(layers) == numbers


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["querry"]}, ["'querry'", "did you mean query?", "value", "dense"]),
        ({"target_modules": ["query", "q_lin"]}, ["'q_lin' matches no linear layer", "query"]),
        ({"target_modules": ["query"], "layers": "7-9"}, ["lora.layers = '7-9'", "0 to 2"]),
        ({"target_modules": ["query"], "layers": "0-99999"}, ["lora.layers = '0-99999'", "0 to 2"]),
        ({"target_modules": ["query"], "layers": "0,3"}, ["lora.layers = '0,3'", "0 to 2"]),
        ({"target_modules": ["query"], "layers": "2-1"}, ["'2-1': 2-1 ends before it begins"]),
        ({"target_modules": ["LayerNorm"]}, ["'LayerNorm' matches no linear layer"]),
        ({"target_modules": []}, ["lora.target_modules: names none; name some of", "query"]),
        ({"target_modules": ["classifier"]}, ["'classifier' matches no linear layer"]),
        ({"target_modules": "query"}, ["'query': as an expression", "list of some of", "dense"]),
        ({"target_modules": "(query"}, ["'(query': no regular expression", "all-linear"]),
        ({"target_modules": ".*query", "layers": "0"}, ["lora.layers = '0'", "take layers: all"]),
    ],
)
def test_targets_that_match_nothing_are_named_with_the_nearest(bert, settings, words):
    with pytest.raises(BadInput) as error:
        match(pretrained(bert), **settings)
    assert all(word in str(error.value) for word in words), error.value


def test_layers_of_a_model_without_numbered_ones_are_refused():
    chosen = LoraSettings(target_modules=("wide",), layers="0")
    with pytest.raises(BadInput, match=r"lora.layers = '0': .* no numbered layers; use all"):
        match_targets(small.Net(), "net", chosen)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 11}, "lora.r = 11: wide is 16 x 10, .* at most 10"),
        ({"r": 2, "client_ranks": [1, 4, 99]}, "lora.client_ranks: 99: wide is 16 x 10"),
    ],
)
def test_a_rank_beyond_a_layers_width_is_refused(settings, words):
    with pytest.raises(BadInput, match=words):
        check_ranks(small.net_model(), LoraSettings(**settings))
    check_ranks(small.net_model(), LoraSettings(r=10))


def test_a_model_type_without_defaults_lists_the_linear_layers():
    with pytest.raises(BadInput, match=r"no default for model type 'net'.*conv, score, square"):
        match_targets(small.Net(), "net", LoraSettings())
