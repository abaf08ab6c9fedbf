"""What is written of a finished run afterwards: scores by a harness, and answers side by side."""

from __future__ import annotations

from pydantic import Field

from rolora.records.base import FileRecord, Record, Score

Z95 = 1.959964
"""Standard errors to either side of an estimate in a 95 % interval."""


class HarnessScore(Record):
    """One metric of one task, of the base model and with the adapter, on the same questions.

    Args:
        task, metric, filter: the harness's names; a filter is how an answer is read.
        within: the group that the task, or group of tasks, is part of.
        higher_is_better: None where the harness does not say.
        client: whose own adapter it is; None: the run's.
        questions: how many were asked.
        limit: how many of each task's were to be asked, from the first; None: all.
        fewshot: examples in each prompt; None: they differ within a group.
        chat_template: whether prompts are written by the tokenizer's chat template.
        code: how generated code was run: ``isolated`` or ``unconfined``; None: none was.
        harness: its name and version.
        base, adapter: the scores.
        base_stderr, adapter_stderr: their standard errors, as the harness has them.
        difference: what the adapter adds.
        difference_stderr: from the differences question by question; None where the metric is no
            mean over questions.
        finished: in UTC, ISO 8601.
    """

    task: str
    metric: str
    filter: str = "none"
    within: str | None = None
    higher_is_better: bool | None = None
    client: int | None = None
    questions: int
    limit: int | None = None
    fewshot: int | None = None
    chat_template: bool = False
    code: str | None = None
    harness: str
    base: Score
    base_stderr: Score = None
    adapter: Score
    adapter_stderr: Score = None
    difference: Score = None
    difference_stderr: Score = None
    finished: str

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the difference."""
        if self.difference is None or self.difference_stderr is None:
            return None
        wide = Z95 * self.difference_stderr
        return self.difference - wide, self.difference + wide

    @property
    def share(self) -> bool:
        """Whether it reads in per cent."""
        return self.metric.startswith(("acc", "exact_match", "pass@", "pass_at", "f1", "mcc"))

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """What a later score replaces."""
        return self.task, self.metric, self.filter, self.client


class HarnessScores(FileRecord):
    """``scores.json``: what ``rolora evaluate --tasks`` found, the last of each task."""

    scores: tuple[HarnessScore, ...] = ()

    def with_later(self, later: tuple[HarnessScore, ...]) -> HarnessScores:
        """These, the later ones in place of those of the same task and metric."""
        new = {score.key for score in later}
        kept = tuple(score for score in self.scores if score.key not in new)
        return HarnessScores(scores=(*kept, *later))


class Generation(Record):
    """A held-out prompt, what the data answer, and what the models do.

    Args:
        prompt: as a person reads it.
        reference: the data's own answer.
        base, adapter: what each model says, deterministic, the likeliest token each time.
    """

    prompt: str
    reference: str = ""
    base: str
    adapter: str


class Generations(FileRecord):
    """``generations.json``: answers before and after, `most` tokens long at most."""

    most: int
    generations: tuple[Generation, ...] = Field(default=())
