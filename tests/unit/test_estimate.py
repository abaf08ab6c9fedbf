"""What a plan says of a round beforehand."""

import pytest
import torch

import small
from rolora.client.evaluation import Split
from rolora.library import estimate as estimating
from rolora.library.estimate import estimate


@pytest.fixture
def engine_of(bert):
    def build(steps):
        settings = small.config(
            model={"name": bert},
            optimizer={"local_steps": steps},
            engine={"workers": 1, "stack": 1},
        )
        examples, model = small.text_examples(21), small.text_model(bert, settings)
        split = Split(examples, small.shares((9, 5, 7)))
        return settings, model, split, small.method(settings)

    return build


def prepared_of(settings, model, split, method):
    from rolora.engines.preparation import Prepared as Real
    from rolora.model.loading import Pretrained

    return Real(
        config=settings,
        pretrained=Pretrained(model.module, None, (), "x"),
        model=model,
        examples={"train": split.examples},
        shares={"train": split.shares},
        test_from="",
        method=method,
        task=small.CLASSIFICATION,
    )


def test_seconds_grow_with_the_steps_and_not_with_the_trial(engine_of, monkeypatch):
    monkeypatch.setattr(estimating, "_trial", lambda engine, plans: 3.0)
    found = []
    for steps in (2, 8):
        prepared = prepared_of(*engine_of(steps))
        state = prepared.method.init(prepared.model.initial_adapter(2, 0))
        found.append(estimate(prepared, state))
    assert found[1].seconds == pytest.approx(4 * found[0].seconds, rel=0.2)
    assert found[0].seconds > 3.0 * 3  # three clients of two steps, of which one step was tried


def test_memory_is_weights_and_what_each_token_keeps(engine_of):
    prepared = prepared_of(*engine_of(2))
    state = prepared.method.init(prepared.model.initial_adapter(2, 0))
    before = prepared.model.module.state_dict()["bert.embeddings.word_embeddings.weight"].clone()
    found = estimate(prepared, state)
    weights = sum(p.nbytes for p in prepared.model.module.parameters())
    longest = int(prepared.examples["train"].lengths.max())
    assert found.memory == weights + 4 * longest * 3 * (6 * 32 + 3 * 48) * 4
    after = prepared.model.module.state_dict()["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(before, after)
