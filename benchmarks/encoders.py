"""Encoders of Transformers on Rotten Tomatoes: rolora beside the loop with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import Work, Workload
from benchmarks.plain_loop import PlainLoop, StateDict, all_batches, with_peft
from benchmarks.simulation import Simulation
from rolora.client.evaluation import Split
from rolora.config import Config, ModelConfig, parse_config
from rolora.core.types import Adapter
from rolora.data import Examples, partition, tokenize
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method
from rolora.model.loading import (
    Pretrained,
    build_lora_model,
    draw_parameters,
    load_pretrained,
    load_tokenizer,
)
from rolora.model.lora import peft_parts
from rolora.tasks import make_task

PLAIN, ROLORA, BFLOAT16 = "plain loop", "rolora", "rolora, bfloat16"
Load = Callable[[ModelConfig, Sequence[str], int], Pretrained]


def minilm(quick: bool) -> Workload:
    """All six layers of a pretrained MiniLM adapted, 20 clients."""
    config = _config(clients=4 if quick else 20, rounds=2, local_steps=2)
    return _workload(
        "MiniLM (6 layers x 384, pretrained), 20 clients",
        config,
        load_pretrained,
        fp32=1.3,
        bf16=2.3,
    )


def base_encoder(quick: bool) -> Workload:
    """BERT-base's size, random weights, 4 clients."""
    config = _config(clients=2 if quick else 4, rounds=2, local_steps=1)
    return _workload(
        "BERT encoder (12 layers x 768, random weights), 4 clients",
        config,
        load_random_bert,
        fp32=1.2,
        bf16=2.3,
    )


def upper_half(quick: bool) -> Workload:
    """Adapters in the upper half of MiniLM, each example seen once a round, from an empty cache."""
    clients = 2 if quick else 8
    config = _config(clients, rounds=4, local_steps=2, layers="3-5", limit=32 * clients)
    return _workload(
        "MiniLM, adapters in the upper three layers, 4 passes over the data, cache empty at first",
        config,
        load_pretrained,
        fp32=1.9,
        bf16=None,
    )


def _config(
    clients: int, rounds: int, local_steps: int, layers: str = "all", limit: int | None = None
) -> Config:
    return parse_config(
        {
            "rounds": rounds,
            "lora": {"r": 4, "target_modules": ["query", "value"], "layers": layers},
            "data": {"name": "rotten_tomatoes", "limit": limit},
            "partition": {"name": "iid"},
            "federation": {"clients": clients},
            "optimizer": {"lr": 1e-3, "local_steps": local_steps, "batch_size": 16},
        }
    )


def _workload(title: str, config: Config, load: Load, fp32: float, bf16: float | None) -> Workload:
    variants = {
        PLAIN: lambda: plain_work(config, load),
        ROLORA: lambda: simulation(config, load).work(),
    }
    targets = {ROLORA: fp32}
    if bf16 is not None:
        variants[BFLOAT16] = lambda: simulation(config, load, dtype="bfloat16").work()
        targets[BFLOAT16] = bf16
    return Workload(title, variants, targets, tolerance={ROLORA: 1e-5})


def simulation(config: Config, load: Load, **changes: Any) -> Simulation:
    """Rolora's rounds; `changes` are to the config's section `model`."""
    config = config.model_copy(update={"model": config.model.model_copy(update=changes)})
    pretrained, train, shares = loaded(config, load)
    model = build_lora_model(pretrained, config)
    run = (config, checked_method(config), make_task(config.task))
    engine = InProcess(*run, model, {"train": Split(train, shares)})
    return Simulation(engine, model.initial_adapter(config.lora.r, config.seed))


def plain_work(config: Config, load: Load) -> Work:
    """The same rounds by the plain loop, from the same adapter, on the same batches."""
    initial = simulation(config, load).initial.parts
    pretrained, train, shares = loaded(config, load)
    loop = with_peft(pretrained.module, pretrained.tokenizer, train, config)
    start = start_state(loop, initial)
    batches, sizes = all_batches(config, shares), [len(rows) for rows in shares]

    def run() -> Tensor:
        state = loop.run(start, batches, sizes)
        return Adapter.of({key: state[peft_parts(*key)] for key in initial}).flat

    return Work(run, sample=lambda: loop.train(start, "lora_B", batches[0][0]))


def start_state(loop: PlainLoop, initial: Adapter) -> StateDict:
    """What PEFT has beside the factors, and the `initial` factors."""
    factors = {peft_parts(*key): tensor.clone() for key, tensor in initial.items()}
    return {**{name: tensor.clone() for name, tensor in loop.get(loop.model).items()}, **factors}


def loaded(config: Config, load: Load) -> tuple[Pretrained, Examples, list[Tensor]]:
    """The model, the tokenised training examples, and each client's share of them."""
    raw = make_task(config.task).load(config.data, config.seed).train
    pretrained = load(config.model, raw.names, config.seed)
    train = tokenize(raw, pretrained.tokenizer, config.data.max_length)
    shares = partition(train.strata, config.partition, config.federation.clients, config.seed)
    return pretrained, train, shares


def load_random_bert(config: ModelConfig, label_names: Sequence[str], seed: int) -> Pretrained:
    """A BERT of base size with weights drawn from the seed, and the tokenizer of `config`."""
    module = BertForSequenceClassification(BertConfig())
    draw_parameters(module, {name for name, _ in module.named_parameters()}, seed)
    with TemporaryDirectory() as directory:
        module.save_pretrained(Path(directory))
        load_tokenizer(config).save_pretrained(Path(directory))
        saved = config.model_copy(update={"name": directory})
        return load_pretrained(saved, label_names, seed)
