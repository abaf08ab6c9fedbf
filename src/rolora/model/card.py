"""The model card of an adapter, as PEFT's have it: what it is, what came out, how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from rolora.config import Config
from rolora.model.loading import Pretrained
from rolora.model.sources import PACKAGED, UNPACKED
from rolora.records.atomic import write_atomic
from rolora.records.schema import Metric, Summary

CARD = "README.md"

_PIPELINES = {"CAUSAL_LM": "text-generation"}
_ANSWERS = {
    "regression": "print(logits[:, 0].tolist())",
    "multi_label_classification": """\
for row in (logits > 0).tolist():
    print([config.id2label[i] for i, chosen in enumerate(row) if chosen])""",
}
_ANSWER = "print([config.id2label[i] for i in logits.argmax(-1).tolist()])"
_LOADING = """\
import torch
from peft import PeftModel
from transformers import AutoConfig, {auto_class}, AutoTokenizer
{base}
ADAPTER = "."  # this directory

config = AutoConfig.from_pretrained(ADAPTER)
base = {auto_class}.from_pretrained(
    BASE, config=config, ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(base, ADAPTER).eval()
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)

batch = tokenizer(
    {texts}, truncation=True, max_length={max_length}, padding=True, return_tensors="pt"
)
with torch.no_grad():
    logits = model(**batch).logits
{answer}"""


_GENERATING = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
{base}
ADAPTER = "."  # this directory

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER).eval()
tokenizer = AutoTokenizer.from_pretrained(ADAPTER)

prompt = tokenizer({asked}, return_tensors="pt"{more})
answer = model.generate(**prompt, max_new_tokens=200)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""


def write_card(
    directory: Path, pretrained: Pretrained, config: Config, summary: Summary | None = None
) -> None:
    """Write ``README.md`` into a directory with an adapter; `summary` where the run is over.

    Args:
        directory: that holds ``adapter_config.json``.
        pretrained: what the adapter is for.
        config: of the run.
        summary: of the run; None before its final test.
    """
    adapter = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    source = pretrained.source
    data = ModelCardData(
        base_model=source,
        library_name="peft",
        pipeline_tag=_PIPELINES.get(pretrained.kind.peft_type, "text-classification"),
        tags=[f"base_model:adapter:{source}", "federated-learning", "lora", "rolora"],
    )
    clients = f"Federated fine-tuning over {config.federation.clients} clients, with rolora."
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# A LoRA adapter for {source}",
        clients,
        _table(dict(_facts(adapter, source, config, summary))),
        "## Scores",
        _scores(summary),
        "## Loading it",
        f"```python\n{loading(pretrained, config)}\n```\n",
    ]
    write_atomic(directory / CARD, "\n\n".join(parts))


def loading(pretrained: Pretrained, config: Config) -> str:
    """Lines of Python that load the adapter in the working directory and ask it something."""
    package = PACKAGED.get(pretrained.source)
    base = f"\nBASE = {json.dumps(pretrained.source)}"
    if pretrained.source in UNPACKED:
        base = (
            "from rolora.model.sources import resolve_source\n\n"
            f"BASE = resolve_source({json.dumps(pretrained.source)})"
        )
    if package is not None:  # a short name of ours, which nobody else knows
        base = (
            f"from {package} import get_model_path  # pip install {package.replace('_', '-')}\n\n"
            "BASE = get_model_path()"
        )
    if pretrained.kind.peft_type == "CAUSAL_LM":
        return _generating(pretrained, base)
    pair = '["a text"], ["its second"]' if config.data.text_pair else '["a text"]'
    return _LOADING.format(
        auto_class=pretrained.kind.auto_class,
        base=base,
        texts=pair,
        max_length=config.data.max_length,
        answer=_ANSWERS.get(str(pretrained.kind.problem_type), _ANSWER),
    )


def _generating(pretrained: Pretrained, base: str) -> str:
    """The same for a language model, which is asked through its chat template if it has one."""
    if getattr(pretrained.tokenizer, "chat_template", None) is None:
        return _GENERATING.format(base=base, asked='"a text"', more="")
    asked = 'tokenizer.apply_chat_template(\n    [{"role": "user", "content": "a question"}], '
    asked += "tokenize=False, add_generation_prompt=True\n)"
    return _GENERATING.format(base=base, asked=asked, more=", add_special_tokens=False")


def _facts(
    adapter: dict[str, Any], source: str, config: Config, summary: Summary | None
) -> Iterator[tuple[str, str]]:
    """What is known of a run by the time, without a path of the machine that it ran on."""
    yield "base model", source
    targets = len(adapter["target_modules"])
    yield "adapter", f"rank {adapter['r']}, lora_alpha {adapter['lora_alpha']:g}, {targets} modules"
    if summary is None:
        yield "method", config.method.name
    else:
        about = summary.method
        yield "method", f"{about.title}: {about.travels}"
        yield "from", about.citation
    path = config.data.path
    name = config.data.name or ("the clients' own" if path is None else path.name)
    if summary is not None:
        data = summary.data
        name += f": {data.train} training, {data.validation} validation, {data.test} test examples"
    yield "data", name
    yield "task", config.task.name
    yield "rounds", f"{config.rounds}, {config.federation.cohort_size} clients each"
    if summary is not None:
        up, down = (f"{n / 2**20:.2f} MiB" for n in (summary.bytes_up, summary.bytes_down))
        yield "sent", f"{up} up, {down} down"
        yield "rolora", str(summary.rolora_version)


def _scores(summary: Summary | None) -> str:
    if summary is None:
        return "The run's final test was not over when this was written."
    columns = {"on the test examples": summary.final.test, "a constant guess": summary.constant}
    held = {title: values for title, values in columns.items() if values}
    rows = [["", *held], ["---", *("---:" for _ in held)]]
    for metric in summary.task.metrics:
        rows.append([metric.title, *(_shown(metric, v.get(metric.name)) for v in held.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _shown(metric: Metric, value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{100 * value:.1f} %" if metric.share else f"{value:.4f}"


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "| --- | --- |", *lines])
