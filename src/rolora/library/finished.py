"""A run as it lies in its directory: its numbers, its adapter, and what can be done with it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rolora.config import Config, DataConfig, ModelConfig, recorded_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.data import Examples, RawSplit, text_columns
from rolora.data.readers import Table
from rolora.data.sources import GIVEN, Source, open_splits, source_of, table_of
from rolora.engines.given import NOTHING, Given
from rolora.library.objects import named_labels
from rolora.model.adopted import adopt_pretrained, labels_of
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel
from rolora.model.peft_format import save_merged, with_adapter
from rolora.records.files import RunFiles, read_json, read_run
from rolora.records.schema import Summary
from rolora.tasks import Task
from rolora.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from rolora.records.scores import HarnessScore

Notice = Callable[[str], None]


class Run:
    """A run, finished or under way.

    Args:
        directory: that the run writes or wrote.
        given: the objects that it was made of, where the config does not name them.
        notice: told what is doubtful.

    Raises:
        BadInput: there is no run, or its files are damaged.
    """

    def __init__(
        self, directory: str | Path, given: Given = NOTHING, notice: Notice = warnings.warn
    ):
        self.directory = Path(directory)
        self._given, self._notice = given, notice
        self.files  # noqa: B018

    def __repr__(self) -> str:
        state = "finished" if self.files.summary else f"after round {len(self.files.rounds)}"
        return f"<Run {self.directory}: {self.files.method}, {state}>"

    # What it says --------------------------------------------------------------------------

    @property
    def files(self) -> RunFiles:
        """Its files as records, read now."""
        return read_run(self.directory)

    @property
    def config(self) -> Config:
        """The resolved config."""
        return recorded_config(self.directory / "config.yaml")

    @property
    def summary(self) -> Summary:
        """What came out.

        Raises:
            BadInput: the run is not finished.
        """
        path = self.directory / "summary.json"
        if not path.is_file():
            raise BadInput(
                f"{self.directory}: no finished run there; it holds no summary.json; go on with it "
                "(--resume, resume=True)"
            )
        return read_json(path, Summary)

    @property
    def metrics(self) -> pd.DataFrame:
        """A line a round: what trained, losses and scores (``validation.accuracy``), bytes,
        seconds, failures.
        """
        import pandas as pd

        lines = [record.model_dump(mode="json") for record in self.files.rounds]
        return pd.json_normalize(lines).drop(columns=["schema"], errors="ignore")

    @property
    def report(self) -> Path:
        """The report, made anew where the run has gone on since."""
        from rolora.report.run_report import write_report

        path, metrics = self.directory / "report.html", self.directory / "metrics.jsonl"
        if path.is_file() and path.stat().st_mtime >= metrics.stat().st_mtime:
            return path
        return write_report(self.directory)

    # The model -----------------------------------------------------------------------------

    @property
    def adapter(self) -> Path:
        """The directory of the adapter, in PEFT's format."""
        return self.adapter_of(None)

    def adapter_of(self, client: int | None) -> Path:
        """The directory of the adapter, or of one client's own.

        Raises:
            BadInput: the run has not left it.
        """
        path = self.directory / "adapter"
        if client is not None:
            path = path / "clients" / str(client)
        if not path.is_dir():
            whose = "" if client is None else f" of client {client}"
            raise BadInput(f"{path}: there is no adapter{whose} there")
        return path

    @cached_property
    def task(self) -> Task:
        """What was learned."""
        return self._given.make_task(self.config)

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs stand for, in order."""
        return self.summary.data.label_names

    def model(self, client: int | None = None) -> Any:
        """The base model with the adapter on it: a ``PeftModel``, in evaluation mode.

        Args:
            client: whose own adapter it is to be, where the method leaves such.

        Raises:
            BadInput: the base model cannot be loaded, or the adapter is damaged.
        """
        return self.model_and_tokenizer(client)[0]

    def model_and_tokenizer(self, client: int | None = None) -> tuple[Any, Any]:
        """The same, and the tokenizer of its base model."""
        adapter, base = self.adapter_of(client), self._base(self.config.model, self._given.model)
        return with_adapter(adapter, base, self._notice).eval(), base.tokenizer

    def _base(self, settings: ModelConfig, given: Any) -> Pretrained:
        task, names = self.task, self.names
        if given is not None:
            return adopt_pretrained(given, self._given.tokenizer, settings, names, task.kind)
        return task.backbone(settings, names, self.config.seed)

    # What can be done with it --------------------------------------------------------------

    def predict(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        client: int | None = None,
    ) -> pd.DataFrame:
        """What the model says of new texts.

        Args:
            texts: `n` of them.
            text_pairs: their second texts, where the task has pairs.
            client: whose own adapter is asked, where the method leaves such.

        Returns:
            a row a text: ``text`` (and ``text_pair``), ``prediction``, and what the task knows
            beside it, such as each label's probability.

        Raises:
            BadInput: a text is none, `text_pairs` are of another number, or the task's model
                answers rather than predicts.
        """
        import pandas as pd

        if isinstance(self.task, CausalLM):
            raise BadInput(
                f"{self.directory}: a run of task {self.task.name} answers prompts; ask it by "
                "rolora chat, run.generate or run.complete"
            )
        pairs = None if text_pairs is None else list(text_pairs)
        raw = RawSplit.of_texts(list(texts), pairs, self.names)
        columns: dict[str, Any] = {"text": raw.text}
        if pairs is not None:
            columns["text_pair"] = pairs
        if not raw.text:
            return pd.DataFrame(columns)
        outputs = self._outputs(raw, client)[1]
        return pd.DataFrame(columns | dict(self.task.predictions(outputs, self.names)))

    def predict_data(
        self, data: Any, *, split: str = "train", client: int | None = None, **columns: Any
    ) -> pd.DataFrame:
        """What the model says of each row of `data`: its columns, and beside them those of
        :meth:`predict`. A label is not needed.

        Args:
            data: as for :meth:`evaluate`, and so is the rest.
            split: which one, where `data` is a directory of several.
            client: whose own adapter is asked, where the method leaves such.
            columns: ``text`` and ``text_pair``, and other keys of the section ``data``.

        Raises:
            BadInput: the data cannot be read, or hold no such text.
        """
        import pandas as pd

        table, source = self._table(data, split, columns)
        texts, pairs = text_columns(table, source)
        found = self.predict(texts, pairs, client)
        rows = pd.DataFrame(table.columns)
        said = found.drop(columns=[name for name in ("text", "text_pair") if name in found])
        clash = [name for name in said if name in rows]
        return pd.concat([rows.drop(columns=clash), said], axis=1)

    def evaluate(
        self,
        data: Any,
        *,
        split: str = "train",
        client: int | None = None,
        **columns: Any,
    ) -> dict[str, float]:
        """The task's scores on other data.

        Args:
            data: a file or directory, or an object (``datasets.Dataset``, ``DataFrame``, records).
            split: which one, where `data` is a directory of several.
            client: whose own adapter is asked, where the method leaves such.
            columns: ``text``, ``text_pair``, ``label`` where they are not called as in training,
                and other keys of the section ``data``.

        Raises:
            BadInput: the data cannot be read, or hold what training did not know.
        """
        raw = self.task.read(*self._table(data, split, columns), self.names, None)
        examples, outputs = self._outputs(raw, client)
        outcome = self.task.outcome(outputs, examples.targets)
        sums = self.task.sums(outcome, examples.targets, self.names)
        return {"examples": len(examples), **self.task.scores(sums)}

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        client: int | None = None,
    ) -> list[str]:
        """What a language model answers to each of `prompts`, the likeliest token each time.

        Args:
            prompts: what a person says, written out as a turn of a dialogue.
            max_new_tokens: of an answer.
            client: whose own adapter is asked, where the method leaves such.

        Raises:
            BadInput: the run is of another task than ``causal_lm``, or a prompt is too long.
        """
        from rolora.data.dialogue import Turn
        from rolora.library.speaking import speaker

        model = speaker(self, client)
        return [model.answer((Turn("user", prompt),), max_new_tokens) for prompt in prompts]

    def complete(
        self,
        texts: Sequence[str],
        max_new_tokens: int = 256,
        client: int | None = None,
    ) -> list[str]:
        """How a language model goes on with each of `texts`, the likeliest token each time: for
        training on plain texts, or on prompts and completions, which no template wrote out.

        Args:
            texts: as they stand.
            max_new_tokens: of what follows.
            client: whose own adapter is asked, where the method leaves such.

        Raises:
            BadInput: the run is of another task than ``causal_lm``, or a text is empty or too long.
        """
        from rolora.library.speaking import speaker

        model = speaker(self, client)
        return [model.go_on(text, max_new_tokens) for text in texts]

    def score(
        self,
        tasks: str | Sequence[str],
        data: str | Path | None = None,
        limit: int | None = None,
        **options: Any,
    ) -> tuple[HarnessScore, ...]:
        """Ask base model and adapter the questions of lm-evaluation-harness
        (:func:`rolora.library.scoring.score`).
        """
        from rolora.library.scoring import score

        return score(self, tasks, data, limit, **options)

    def held_out(self) -> Any:
        """The test examples as they were read, where the run's data are in this process's reach.

        Raises:
            BadInput: the data cannot be had.
        """
        config = self.config
        raw = self.task.load(config.data, config.seed, self._given.splits, config.partition)
        return raw.test

    def _table(self, data: Any, split: str, columns: Mapping[str, Any]) -> tuple[Table, Source]:
        """The rows of `data`, and which of their columns count."""
        known = self.config.data
        named = source_of(known)
        settings = {"text": named.text, "text_pair": named.text_pair, "label": named.label}
        settings = {**settings, "train_split": split, **columns}
        if isinstance(data, str | Path):
            config = parse_section(DataConfig, {"path": data, **settings}, "data")
            splits = open_splits(config, source_of(config))
            if split not in splits:
                raise BadInput(f"{data}: has no split {split!r}; it has {', '.join(splits)}")
            return splits[split](), source_of(config)
        source = source_of(parse_section(DataConfig, {"name": GIVEN, **settings}, "data"))
        labels = None if self._given.model is None else labels_of(self._given.model)
        return named_labels(table_of(data, "data"), source.label, labels), source

    def _outputs(self, raw: Any, client: int | None) -> tuple[Examples, torch.Tensor]:
        """The texts as the model takes them, and its outputs ``[n, ...]`` on the CPU."""
        config = self.config
        base = self._base(config.model, self._given.model)
        adapted = with_adapter(self.adapter_of(client), base, self._notice)
        model = LoraModel(adapted.get_base_model(), targets=())
        examples = self.task.tokens(raw, base.tokenizer, config.data.max_length)
        order = torch.argsort(examples.lengths, stable=True)
        with torch.no_grad():
            found = [
                self.task.outputs(model, examples, rows, again=False)[0].cpu()
                for rows in order.split(config.evaluation.batch_size)
            ]
        return examples, torch.cat(found)[torch.argsort(order)]

    def export(self, directory: str | Path) -> Path:
        """Write base and adapter as one model, loadable by ``from_pretrained``.

        Raises:
            BadInput: `directory` is not empty, the base model cannot be loaded, or the adapter is
                damaged.
        """
        directory = Path(directory)
        if directory.exists() and any(directory.iterdir()):
            raise BadInput(f"--merge {directory}: is not empty; name a new directory")
        settings = self.config.model.model_copy(update={"device": "cpu", "dtype": "float32"})
        base = self._base(settings, copy.deepcopy(self._given.model))  # merging changes weights
        save_merged(directory, self.adapter, base, self._notice)
        return directory


def load_run(
    directory: str | Path,
    *,
    model: Any = None,
    tokenizer: Any = None,
    task: Task | None = None,
) -> Run:
    """A run that an earlier process left.

    Args:
        directory: of the run.
        model: the base model, where the run was given it as an object.
        tokenizer: its tokenizer.
        task: the task, where the run was given it as an object.

    Raises:
        BadInput: there is no run, or its files are damaged.
    """
    return Run(directory, Given(model=model, tokenizer=tokenizer, task=task))
