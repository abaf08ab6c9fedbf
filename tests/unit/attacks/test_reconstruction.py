"""Tokens are read off an update that is not defended, and a defence that is named keeps them."""

import pytest
import torch

import small
from federated import write_run
from rolora.attacks.reconstruction import Inputs, Upload, read
from rolora.attacks.trial import state_after
from rolora.config import TaskConfig, load_config
from rolora.core.errors import BadInput
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter
from rolora.engines.preparation import load, prepare
from rolora.tasks import make_task

PLACES = 14
SPECIAL = {0, 1, 2, 3}


@pytest.fixture(scope="module")
def run_yaml(model_dir, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("reconstruction"), model_dir("bert"))


@pytest.fixture(scope="module")
def loaded(run_yaml):
    return load(load_config(run_yaml), lambda notice: None)


@pytest.fixture(scope="module")
def attacked(run_yaml, loaded):
    """``attacked(round, rank, *overrides)``: how many of the tokens of client 0's batch are read
    off its update in that round (odd: of B, even: of A), and how many of those read are right.
    """
    inputs = Inputs.of(loaded.model, PLACES)

    def prepared(rank, *overrides):
        settings = load_config(run_yaml, [f"lora.r={rank}", f"lora.lora_alpha={rank}", *overrides])
        return prepare(settings, loaded, lambda notice: None)

    def attack(round_, rank, *overrides, sites=(0,), noise=0.0):
        state = state_after(prepared(rank), round_ - 1)
        plain = ["optimizer.name=sgd", "optimizer.local_steps=1", "optimizer.batch_size=1"]
        ready = prepared(rank, *plain, *overrides)
        seen = [Upload.of(ready, state, client) for client in sites]
        change = sum((upload.change.flat for upload in seen), torch.zeros(()))
        change = change + noise * torch.randn(change.shape, generator=torch_generator(0, "noise"))
        moved = Adapter(seen[0].change.layout, change)
        found = {token for token, _ in read(moved, seen[0].start, inputs, PLACES, noise)} - SPECIAL
        ids = ready.examples["train"].batch(seen[0].rows)["input_ids"]
        true = set(ids.flatten().tolist()) - SPECIAL
        return len(found & true) / len(true), len(found & true) / max(1, len(found))

    return attack


def test_the_inputs_are_those_of_each_token_at_each_place(loaded):
    inputs = Inputs.of(loaded.model, 5)
    embeddings = loaded.pretrained.module.bert.embeddings
    ids = torch.tensor([[2, 9, 30, 9, 3]])
    expected = embeddings(ids)[0]
    torch.testing.assert_close(inputs.vectors[ids[0], torch.arange(5)], expected)
    assert inputs.modules == tuple(
        f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "value")
    )


def test_all_tokens_come_back_from_the_change_of_a(attacked):
    assert attacked(2, 16) == (1.0, 1.0)


def test_all_tokens_come_back_from_the_change_of_b_only_where_the_rank_is_above_their_number(
    attacked,
):
    assert attacked(3, 24) == (1.0, 1.0)
    assert attacked(3, 4) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("defence", "settings"),
    [
        ("noise", {"noise": 0.05}),
        ("sum", {"sites": (0, 1, 2)}),
    ],
)
def test_defences_keep_tokens_back(attacked, defence, settings):
    found, right = attacked(2, 16, **settings)
    assert found * right < 0.5


def test_signs_of_a_gradient_tell_less_than_the_gradient(attacked):
    found, right = attacked(2, 16, "optimizer.name=adamw")
    assert found * right < 0.6


def test_adapters_above_the_first_layer_are_not_read(run_yaml):
    upper = load(load_config(run_yaml, ["lora.layers=1-2"]), lambda notice: None)
    with pytest.raises(BadInput, match=r"lora.layers: bert.encoder.layer.1"):
        Inputs.of(upper.model, 5)


def test_where_positions_come_in_later_there_is_one_place(llama):
    chosen = small.config(model={"name": llama}, lora={"target_modules": None})
    task = make_task(TaskConfig(name="causal_lm"))
    pretrained = task.backbone(chosen.model, (), 0)
    inputs = Inputs.of(task.adapted(pretrained, chosen), 5)
    assert inputs.vectors.shape[:2] == (64, 1)
    assert [name.rpartition(".")[2] for name in inputs.modules] == ["q_proj", "v_proj"]
    upper = small.config(model={"name": llama}, lora={"target_modules": None, "layers": "1"})
    with pytest.raises(BadInput, match=r"lora.layers"):
        Inputs.of(task.adapted(task.backbone(upper.model, (), 0), upper), 5)


def test_what_was_staged_is_decoded(run_yaml, loaded):
    plain, staged = (
        prepare(load_config(run_yaml, given), loaded, lambda notice: None)
        for given in ([], ["stages=[int8]"])
    )
    exact, coded = (Upload.of(each, each.initial(), 1) for each in (plain, staged))
    assert torch.equal(exact.rows, coded.rows)
    assert exact.change.parts == coded.change.parts == {"B"}
    off = (exact.change.flat - coded.change.flat).abs().max()
    assert 0 < off <= exact.change.flat.abs().max() / 127
