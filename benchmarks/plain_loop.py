"""RoLoRA as a user would write it with Transformers and PEFT: the loop to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import (
    LoraConfig,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from rolora.client.batches import batch_rows
from rolora.config import Config, OptimizerConfig
from rolora.core.types import EMPTY, Plan
from rolora.data import Examples
from rolora.model.targets import layer_numbers

StateDict = dict[str, Tensor]
Batches = list[list[int]]


@dataclass(frozen=True)
class PlainLoop:
    """One model, whose adapter is swapped from client to client.

    Args:
        model: the model with LoRA layers, without dropout.
        loader: the batches of one client in one round.
        loss: of the model on a batch.
        settings: of the clients' AdamW.
        get, set: the adapter's state dict, out of the model and into it.
    """

    model: nn.Module
    loader: Callable[[Batches], DataLoader]
    loss: Callable[[Any, Any], Tensor]
    settings: OptimizerConfig
    get: Callable[[Any], StateDict]
    set: Callable[[Any, StateDict], Any]

    def run(
        self, start: StateDict, rounds: Sequence[Sequence[Batches]], num_examples: Sequence[int]
    ) -> StateDict:
        """The adapter after all rounds; ``rounds[t][k]`` are client k's batches in round t."""
        state = start
        for number, clients in enumerate(rounds, 1):
            active = "lora_B" if number % 2 else "lora_A"
            state = average([self.train(state, active, b) for b in clients], num_examples)
        return state

    def train(self, state: StateDict, active: str, batches: Batches) -> StateDict:
        """One client's local steps from `state`."""
        self.set(self.model, state)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(active in name)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=self.settings.lr,
            eps=self.settings.eps,
            weight_decay=self.settings.weight_decay,
        )
        for batch in self.loader(batches):
            optimizer.zero_grad()
            self.loss(self.model, batch).backward()
            optimizer.step()
        return {name: tensor.clone() for name, tensor in self.get(self.model).items()}


def average(states: Sequence[StateDict], num_examples: Sequence[int]) -> StateDict:
    """The mean of the state dicts, weighted by numbers of examples."""
    total = sum(num_examples)
    return {
        name: torch.stack(
            [n / total * state[name] for n, state in zip(num_examples, states, strict=True)]
        ).sum(0)
        for name in states[0]
    }


def with_peft(module: nn.Module, tokenizer: Any, examples: Examples, config: Config) -> PlainLoop:
    """The loop over a sequence classifier of Transformers, in evaluation mode: no dropout."""
    lora, wanted = config.lora, config.lora.target_modules or ()
    model = get_peft_model(
        module,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            target_modules=wanted if isinstance(wanted, str) else list(wanted),
            layers_to_transform=layer_numbers(lora.layers),
        ),
    )
    dataset: Any = as_dictionaries(examples)
    collate = DataCollatorWithPadding(tokenizer)
    return PlainLoop(
        model=model.eval(),
        loader=lambda batches: DataLoader(dataset, batch_sampler=batches, collate_fn=collate),
        loss=lambda model, batch: model(**batch).loss,
        settings=config.optimizer,
        get=get_peft_model_state_dict,
        set=set_peft_model_state_dict,
    )


def as_dictionaries(examples: Examples) -> list[dict[str, Any]]:
    """Each example as a tokenizer gives it, with its label."""
    assert examples.offsets is not None
    spans = list(zip(examples.offsets.tolist(), examples.offsets[1:].tolist(), strict=False))
    columns = {name: flat.tolist() for name, flat in examples.tokens.items()}
    return [
        {
            **{name: column[start:end] for name, column in columns.items()},
            "attention_mask": [1] * (end - start),
            "label": label,
        }
        for (start, end), label in zip(spans, examples.targets.tolist(), strict=True)
    ]


def all_batches(config: Config, shares: Sequence[Tensor]) -> list[list[Batches]]:
    """Rolora's batches, by round and client, all clients taking part."""
    rank = config.lora.r
    return [
        [
            [
                batch.tolist()
                for batch in batch_rows(
                    rows,
                    Plan(number, k, EMPTY, {}, frozenset(), frozenset(), rank, 1.0),
                    config.optimizer,
                    config.seed,
                )
            ]
            for k, rows in enumerate(shares)
        ]
        for number in range(1, config.rounds + 1)
    ]
