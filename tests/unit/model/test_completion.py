"""The loss of learned tokens: Transformers' own in value and gradient, without its memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import small
from rolora.core.errors import BadInput
from rolora.model import completion
from rolora.model.completion import OutputHead, check_output_head, completion_loss, token_losses
from rolora.model.lora import LoraModel
from rolora.model.targets import match_targets

HEADS = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 3.0},
    "gpt2": {},
    "phi": {},  # whose output layer has a bias
    "granite": {**small.OTHERS["llama"], "logits_scaling": 3.0},
    "cohere": {**small.OTHERS["llama"], "logit_scale": 0.3},
}


def causal(architecture, dtype=torch.float32):
    module = small.causal(architecture, vocab_size=72, **HEADS.get(architecture, {}))
    for name, parameter in module.named_parameters():
        if name.endswith("head.bias"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return module.to(dtype).eval()


def lora(module, K=1, seed=0):
    """The model with lively factors for K clients, and these."""
    kind = module.config.model_type
    named = ["q_proj", "v_proj"] if kind in ("granite", "cohere") else None
    targets = match_targets(module, kind, small.config(lora={"target_modules": named}).lora)
    model = LoraModel(module, targets)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: (0.2 * torch.randn(K, *shape, generator=generator)).requires_grad_()
        for key, (_, _, shape) in model.layout(2).spans.items()
    }
    model.mount(tensors, [2.0] * K)
    return model, tensors


def batch(seed=0, lengths=(9, 3, 12, 1)):
    """Rows padded on the right; the middle of each is a completion."""
    generator = torch.Generator().manual_seed(seed)
    T = max(lengths)
    mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(4, 72, (len(lengths), T), generator=generator) * mask
    learned = (torch.rand(len(lengths), T, generator=generator) < 0.6).long() * mask
    learned[0, 0], learned[1] = 1, 0  # a first token, which nothing foretells; and nothing learned
    return {"input_ids": ids, "attention_mask": mask}, learned


def theirs(model, inputs, learned):
    """Transformers' own loss of each row: its mean over labels, times their number."""
    labels = torch.where(learned != 0, inputs["input_ids"], -100)
    rows = []
    for i in range(len(labels)):
        count = (labels[i, 1:] != -100).sum()
        one = {name: column[i : i + 1] for name, column in inputs.items()}
        mean = model.module(**one, labels=labels[i : i + 1]).loss if count else torch.zeros(())
        rows.append(mean * count)
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", HEADS)
def test_it_is_transformers_loss_in_value_and_gradient(architecture, monkeypatch):
    monkeypatch.setitem(completion.PIECE_BYTES, "cpu", 4 * 72 * 5)  # five tokens a piece
    model, tensors = lora(causal(architecture))
    inputs, learned = batch()
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0])
    wanted = theirs(model, inputs, learned)
    (wanted * weights).sum().backward()
    gradients = {key: tensor.grad.clone() for key, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.grad = None
    ours = completion_loss(model, inputs, learned)
    (ours * weights).sum().backward()
    assert ours.dtype == torch.float32
    assert ours[1] == ours[3] == 0.0
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    for key, tensor in tensors.items():
        scale = gradients[key].abs().max()
        assert scale > 0
        torch.testing.assert_close(tensor.grad, gradients[key], rtol=1e-5, atol=1e-5 * float(scale))


def test_in_bfloat16_the_sum_over_the_vocabulary_is_float32():
    """A bfloat16 log-sum-exp of 4,000 equal logits is off in its third digit."""
    weight = torch.zeros(4000, 8, dtype=torch.bfloat16)
    hidden = torch.ones(3, 8, dtype=torch.bfloat16, requires_grad=True)
    losses = token_losses(hidden, OutputHead(weight), torch.tensor([0, 5, 3999]))
    torch.testing.assert_close(losses, torch.full((3,), 4000.0).log())
    model, _ = lora(causal("llama", torch.bfloat16))
    inputs, learned = batch()
    ours = completion_loss(model, inputs, learned)
    torch.testing.assert_close(ours, theirs(model, inputs, learned).float(), rtol=0.02, atol=0.1)


def test_nothing_learned_is_no_loss_and_no_gradient():
    model, tensors = lora(causal("llama"))
    inputs, learned = batch()
    losses = completion_loss(model, inputs, torch.zeros_like(learned))
    losses.sum().backward()
    assert losses.tolist() == [0.0] * 4
    assert all(tensor.grad is None or not tensor.grad.any() for tensor in tensors.values())


def test_stacked_clients_have_the_losses_that_each_has_alone():
    model, tensors = lora(causal("llama"), K=2)
    inputs, learned = batch()
    both = {name: torch.cat([column, column]) for name, column in inputs.items()}
    stacked = completion_loss(model, both, torch.cat([learned, learned])).view(2, -1)
    for k in range(2):
        model.mount({key: tensor[k : k + 1] for key, tensor in tensors.items()}, [2.0])
        alone = completion_loss(model, inputs, learned)
        torch.testing.assert_close(stacked[k], alone, rtol=1e-5, atol=1e-5)
    assert (stacked[0] - stacked[1]).abs().max() > 0.01


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made within has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.untyped_storage().nbytes() // 4)
        return made


@pytest.mark.parametrize("tied", [True, False])
def test_no_tensor_holds_the_logits_of_all_tokens(monkeypatch, tied):
    """Nor a gradient for the output embedding, which is as large."""
    d, vocabulary, tokens = 8, 5000, 64
    monkeypatch.setitem(completion.PIECE_BYTES, "cpu", 4 * vocabulary * 4)
    weight = torch.randn(vocabulary, d)
    held = weight.untyped_storage().nbytes() // 4
    hidden = torch.randn(tokens, d, requires_grad=True)
    with Largest() as largest:
        losses = token_losses(hidden, OutputHead(weight), torch.arange(tokens))
        losses.sum().backward()
    assert largest.numbers <= max(4 * vocabulary, held) < tokens * vocabulary / 4
    with Largest() as plain:
        torch.nn.functional.cross_entropy(hidden @ weight.T, torch.arange(tokens)).backward()
    assert plain.numbers >= tokens * vocabulary


def test_a_head_that_does_something_unknown_is_refused():
    module = causal("llama")
    check_output_head("x", module)
    forward = module.lm_head.forward
    module.lm_head.forward = lambda x: forward(x) * 1.5 + 1.0
    with pytest.raises(BadInput, match=r"model.name = 'x': a llama makes its logits"):
        check_output_head("x", module)
