"""The last layer of a BERT-like classifier, for the one token that its head reads.

Attention in the last layer still sees every token; what comes after it works token by token, and
the head looks at the first alone. Leaving the others out changes no logit.
"""

from __future__ import annotations

from torch import Tensor, nn

ENCODERS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "xlm-roberta": "roberta.encoder.layer",
    "camembert": "roberta.encoder.layer",
    "electra": "electra.encoder.layer",
}
"""By Transformers' model type: the layers of sequence classifiers that read the first token."""


class FirstToken(nn.Module):
    """The output projection of a layer's attention, for the first token."""

    def __init__(self, output: nn.Module):
        super().__init__()
        self.output = output

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Both ``[n, T, d]``, to ``[n, 1, d]``."""
        return self.output(hidden_states[:, :1], input_tensor[:, :1])


def keep_first_token(module: nn.Module, model_type: str) -> None:
    """Cut the last layer of `module`, a sequence classifier, in place where its type is known."""
    chunked = getattr(module.config, "chunk_size_feed_forward", 0)
    if model_type not in ENCODERS or chunked:
        return
    layers = module.get_submodule(ENCODERS[model_type])
    assert isinstance(layers, nn.ModuleList)
    attention = layers.get_submodule(f"{len(layers) - 1}.attention")
    attention.output = FirstToken(attention.get_submodule("output"))
