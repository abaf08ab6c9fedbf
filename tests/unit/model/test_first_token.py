"""The last layer for the first token alone: not one logit or gradient changes."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rolora.model.first_token import ENCODERS, FirstToken, keep_first_token
from rolora.model.loading import draw_parameters
from rolora.model.lora import LoraModel

LAYERS = ("query", "value", "attention.output.dense", "intermediate.dense", "1.output.dense")


def classifier(model_type, **changes):
    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=48,
        num_hidden_layers=2,
        max_position_embeddings=40,
        pad_token_id=0,
        initializer_range=0.2,
        **changes,
    )
    module = AutoModelForSequenceClassification.from_config(config)
    draw_parameters(module, {name for name, _ in module.named_parameters()}, seed=0)
    return module


def lora_model(model_type, K=3):
    """Adapters in every linear layer of the encoder, B away from zero."""
    module = classifier(model_type)
    targets = [name for name, _ in module.named_modules() if name.endswith(LAYERS)]
    model = LoraModel(module, targets)
    tensors = {}
    for i, (key, tensor) in enumerate(model.initial_adapter(2, 0).items()):
        drawn = torch.randn(K, *tensor.shape, generator=torch.Generator().manual_seed(i))
        tensors[key] = (0.2 * drawn).requires_grad_()
    model.mount(tensors, [1.0, 2.0, 0.5])
    return model, tensors


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 64, (6, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor([9, 4, 7, 1, 9, 2])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_logits_and_gradients_stay(model_type):
    whole, whole_tensors = lora_model(model_type)
    cut, cut_tensors = lora_model(model_type)
    keep_first_token(cut.module, model_type)
    assert any(isinstance(layer, FirstToken) for layer in cut.module.modules())
    ours, theirs = cut.logits(batch()), whole.logits(batch())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    ours.backward(direction)
    theirs.backward(direction)
    for key, tensor in whole_tensors.items():
        torch.testing.assert_close(cut_tensors[key].grad, tensor.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_the_last_layer_works_on_one_token(model_type):
    module = classifier(model_type).eval()
    keep_first_token(module, model_type)
    seen = []
    last = module.get_submodule(ENCODERS[model_type])[-1]
    last.register_forward_hook(lambda layer, args, output: seen.append(output.shape))
    module(**batch())
    assert seen == [(6, 1, 32)]


def test_other_models_are_left_alone():
    module = classifier("bert", chunk_size_feed_forward=2)
    keep_first_token(module, "bert")
    assert not any(isinstance(layer, FirstToken) for layer in module.modules())
    module = classifier("bert")
    keep_first_token(module, "a model that pools all tokens")
    assert not any(isinstance(layer, FirstToken) for layer in module.modules())
