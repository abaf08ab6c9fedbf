"""The low-rank update gives the values and the gradients that autograd gives."""

import pytest
import torch

from rolora.core.seeds import torch_generator
from rolora.model.low_rank import low_rank_update


def operands(K, shared, d_in=6, d_out=5, r=3, m=4):
    g = torch_generator(0, "low_rank", K, shared)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {
        "y": draw(K, m, d_out),
        "x": draw(K, m, d_in),
        "A": draw(1 if shared == "A" else K, r, d_in),
        "B": draw(1 if shared == "B" else K, d_out, r),
        "scaling": draw(K, 1, 1),
    }


def plain(y, x, A, B, scaling):
    return y + scaling * torch.einsum("kmd,krd,kor->kmo", x, A.expand(len(x), -1, -1), B)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("shared", ["", "A", "B"])
@pytest.mark.parametrize("trained", ["A", "B", "AB", "xA", "xB", "yx", "yxAB"])
def test_values_and_gradients_are_autograds(K, shared, trained):
    if shared and shared in trained and K > 1:
        pytest.skip("a factor that all clients share does not train")
    results = []
    for function in (low_rank_update, plain):
        tensors = {n: t.requires_grad_(n in trained) for n, t in operands(K, shared).items()}
        if function is plain and shared == "B":
            tensors["B"] = tensors["B"].expand(K, -1, -1)
        leaves = [tensors[name] for name in trained]
        out = function(**tensors)
        weights = torch.arange(out.numel(), dtype=out.dtype).view(out.shape).cos()
        results.append([out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)])
    for ours, autograds in zip(*results, strict=True):
        torch.testing.assert_close(ours, autograds)


def test_a_frozen_a_keeps_no_input_for_the_backward_pass():
    held = []
    tensors = operands(3, "")
    tensors["B"].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.shape) or t, lambda t: t):
        low_rank_update(**tensors)
    assert tensors["x"].shape not in held
