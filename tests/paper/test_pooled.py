"""Texts as what a frozen encoder makes of them."""

from __future__ import annotations

import pytest
import torch

import small
from experiments.pooled import PooledTexts, pooled
from rolora.core.types import Adapter
from rolora.data import RawSplits
from rolora.model.loading import load_pretrained


@pytest.fixture
def encoder(bert):
    settings = small.config(model={"name": bert})
    return load_pretrained(settings.model, ("label0", "label1"), 0)


def test_a_text_is_the_mean_of_its_states_below_the_last_layer_whoever_passes_with_it(encoder):
    texts, body = small.text_examples(12), encoder.module
    states = {}
    found = pooled(texts, body, states)
    for row in range(len(texts)):
        one = texts.batch(torch.tensor([row]))
        with torch.no_grad():
            hidden = body.bert(**one, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(found[row], hidden[0].mean(0), rtol=1e-4, atol=1e-5)
    known = dict(states)
    again = pooled(texts.select(torch.tensor([3, 1])), None, states)  # the encoder is not asked
    assert torch.equal(again, found[[3, 1]])
    assert states.keys() == known.keys()


def test_the_pooler_above_it_is_the_models_own_and_adapted(encoder, monkeypatch):
    task, texts, body = PooledTexts(), small.text_examples(6), encoder.module
    monkeypatch.setattr("rolora.tasks.column.ColumnTask.encode", lambda *given: {"train": texts})
    raw = RawSplits(train=None, validation=None, test=None, test_from="test", held_out=False)
    seen = task.encode(raw, encoder, small.config().data, print)["train"]
    x = seen.dense["x"]
    with torch.no_grad():
        expected = body.classifier(body.bert.pooler(x[:, None]))
    model = task.adapted(encoder, small.config())
    start = model.initial_adapter(2, 0)

    def logits(adapter):
        model.mount({key: tensor[None] for key, tensor in adapter.items()}, [1.0])
        return task.outputs(model, seen, torch.arange(6), again=False)[0]

    torch.testing.assert_close(logits(start), expected)
    assert not torch.allclose(logits(Adapter(start.layout, start.flat + 0.1)), expected)
