"""Gradient checkpointing: layers that keep their input alone, to the same bits."""

from functools import cache

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import small
from rolora.client.update import local_update
from rolora.core.errors import BadInput
from rolora.core.rules import Job
from rolora.core.types import Plan
from rolora.model import footprint
from rolora.model.lora import StackedLoRA
from rolora.tasks import make_task


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(architecture, task)``: a directory with a small random model."""

    @cache
    def directory(architecture, task):
        save = small.save_causal if task == "causal_lm" else small.save_model
        return str(save(tmp_path_factory.mktemp(architecture), architecture))

    return directory


def trained(directory, kind, checkpointing, **lora):
    """Two clients' local updates, side by side, and the bytes that autograd kept meanwhile."""
    settings = small.config(
        model={"name": directory, "gradient_checkpointing": checkpointing},
        task={"name": kind},
        lora={"target_modules": "all-linear", "dropout": 0.2, **lora},
    )
    task, examples = make_task(settings.task), small.text_examples(10)
    names = examples.names
    if kind == "causal_lm":
        examples, names = small.spoken(examples), ()
    model = task.adapted(task.backbone(settings.model, names, 0), settings)
    assert model.recomputes == checkpointing
    model = model.twin()  # as the second worker's
    start = model.initial_adapter(2, 0)
    start = start.overwrite({key: t + 0.1 for key, t in start.items() if key[1] == "B"})
    parts = frozenset({"A", "B"})
    jobs = [
        Job(Plan(1, k, start, {}, parts, parts, 2, 4.0), start, rows)
        for k, rows in enumerate(small.shares((5, 5)))
    ]
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        updates = local_update(task, model, examples, jobs, settings.optimizer, 0)
    layers = [m for m in model.module.modules() if isinstance(m, StackedLoRA)]
    assert all(layer.streams is None for layer in layers)
    return torch.cat([item.parts.flat for item in updates]), sum(kept)


@pytest.mark.parametrize("layers", ["all", "1"])
@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("bert", "classification"),
        ("modernbert", "classification"),
        ("llama", "classification"),
        ("gpt2", "classification"),
        ("llama", "causal_lm"),
        ("gpt2", "causal_lm"),
        ("gemma2", "causal_lm"),
    ],
)
def test_the_bits_are_the_same_and_less_is_kept(saved, architecture, task, layers):
    """With dropout, for clients side by side; over frozen layers that are cached, too."""
    directory = saved(architecture, task)
    plain, plain_kept = trained(directory, task, False, layers=layers)
    ours, kept = trained(directory, task, True, layers=layers)
    assert torch.equal(ours, plain)
    assert kept < 0.5 * plain_kept


def built(directory, **settings):
    settings = small.config(model={"name": directory, **settings}, lora={"target_modules": None})
    return small.text_model(directory, settings)


def test_auto_recomputes_where_memory_asks_for_it(saved, monkeypatch):
    directory = saved("bert", "classification")
    assert not built(directory).recomputes
    monkeypatch.setattr(footprint, "free_memory", lambda device: 2**20)
    assert built(directory).recomputes
    assert not built(directory, gradient_checkpointing=False).recomputes


def test_an_architecture_without_such_layers_is_refused_where_they_are_asked_for(
    saved, monkeypatch
):
    directory = saved("albert", "classification")
    monkeypatch.setattr(footprint, "free_memory", lambda device: 2**20)
    assert not built(directory).recomputes
    with pytest.raises(BadInput, match="gradient_checkpointing = true: a albert has no layers"):
        built(directory, gradient_checkpointing=True)
