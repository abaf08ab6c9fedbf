"""What finished adapters and their base model are asked: benchmarks, and held-out questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from experiments.generation.study import Benchmark
from experiments.generation.training import LanguageTrial, digest_of
from rolora.core.errors import BadInput
from rolora.library.speaking import Speaker
from rolora.model.peft_format import with_adapter
from rolora.scoring.harness import ask_each
from rolora.scoring.sandbox import sandbox
from rolora.tasks import make_task
from rolora.tasks.causal_lm import CausalLM

Scores = Mapping[str, str]
"""By task, each question's score: 0 or 1."""


class Answer(TypedDict):
    """A held-out question, the answer in the data, and the model's."""

    prompt: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A model that is asked: a job.

    Args:
        trial: whose adapter it is; of the base model one whose data and model count alone.
        adapter: its directory; None: the base model.
        of: what the adapter is called: its cell.
        what: a benchmark; a number of held-out questions and of tokens in an answer.
    """

    trial: LanguageTrial
    adapter: Path | None
    of: str
    what: Benchmark | tuple[int, int]

    @property
    def name(self) -> str:
        """For people."""
        kind = self.what.title if isinstance(self.what, Benchmark) else "answers"
        return f"{kind} {self.of.rpartition('-')[0]}"


class Asker:
    """Asks models; keeps the last one."""

    def __init__(self) -> None:
        self.key: Any = None
        self.speaker: Speaker | None = None

    def settings(self, job: Asked) -> Mapping[str, Any]:
        """All that the result depends on."""
        if not isinstance(job.what, Benchmark):
            return {"of": job.of, "questions": job.what[0], "tokens": job.what[1]}
        asking = job.what.asking
        return {
            "of": job.of,
            "tasks": [Path(name).name for name in asking.tasks],
            "data": None if asking.data is None else digest_of(asking.data),
            "limit": asking.limit,
            "metric": job.what.metric,
        }

    def work(self, job: Asked) -> Any:
        """Each question's score, or answers.

        Raises:
            BadInput: the adapter is gone, or the model cannot be asked.
        """
        speaker = self._speaker(job)
        if not isinstance(job.what, Benchmark):
            return _answers(speaker, job.trial, *job.what)
        with sandbox() if job.what.code else nullcontext() as box:
            model = (speaker.model, speaker.tokenizer)
            found = ask_each(*model, job.what.asking, job.what.metric, box)
        return {task: "".join(str(int(score)) for score in each) for task, each in found.items()}

    def _speaker(self, job: Asked) -> Speaker:
        key = (job.adapter, job.trial.settings()["model"])
        if self.speaker is None or key != self.key:
            self.key = self.speaker = None  # one model in memory
            self.speaker, self.key = speaker_of(job), key
        return self.speaker


def speaker_of(job: Asked) -> Speaker:
    """The model of a job, ready to be asked.

    Raises:
        BadInput: its adapter is not there.
    """
    if job.adapter is not None and not job.adapter.is_dir():
        raise BadInput(
            f"{job.adapter}: is not there, though its run is finished; delete cells/{job.of}.json, "
            "and it is trained again"
        )
    config = job.trial.config
    task = _task(job.trial)
    pretrained = task.backbone(config.model, (), config.seed)
    whole: Any = pretrained.module if job.adapter is None else None
    if job.adapter is not None:
        whole = with_adapter(job.adapter, pretrained)
    return Speaker(whole.eval(), pretrained.tokenizer, task.settings.template)


def _task(trial: LanguageTrial) -> CausalLM:
    task = make_task(trial.config.task)
    assert isinstance(task, CausalLM)
    return task


def _answers(speaker: Speaker, trial: LanguageTrial, count: int, most: int) -> Sequence[Answer]:
    """The likeliest answers to the first held-out questions."""
    task, config = _task(trial), trial.config
    test = task.load(config.data, config.seed, partition=config.partition).test
    found = []
    for turns, reference in task.questions(test, count):
        parts = [part for turn in turns for part in (turn.content, turn.context) if part]
        answer = speaker.answer(turns, most)
        found.append(Answer(prompt="\n\n".join(parts), reference=reference, answer=answer))
    return found
