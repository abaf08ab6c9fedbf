"""Many small runs on a few cores: one process a core, each with one thread.

By `concurrent.futures`, not joblib, which breaks two of the promises below (tried with 1.6.0, its
backend loky): an interrupt kills the workers at once, and with them the runs under way, which a
flag in a signal handler of ours would have to prevent; and workers outlive a killed parent, the
busy ones to the end of their run and the idle ones for minutes, so that :func:`_begin` and what a
process keeps between jobs would be needed all the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.cells import Cells
from experiments.workspace import Workspace
from rolora.core.errors import RunFailed


class Named(Protocol):
    """A job; its name is for people."""

    @property
    def name(self) -> str:
        """What it is."""


J_contra = TypeVar("J_contra", bound=Named, contravariant=True)
J = TypeVar("J", bound=Named)
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Worker(Protocol[J_contra, R_co]):
    """Does jobs one after the other. Every process has a copy of its own (it is pickled), which
    may keep between jobs what the next one needs again.
    """

    def settings(self, job: J_contra) -> Mapping[str, Any]:
        """All that the result depends on, JSON-able."""

    def work(self, job: J_contra) -> R_co:
        """The result, JSON-able."""


def run_jobs(
    what: str,
    jobs: Sequence[J],
    worker: Worker[J, R],
    workspace: Workspace,
    workers: int | None,
) -> list[R]:
    """The jobs' results, in order; those whose cell is finished are not run again.

    Args:
        what: of the jobs, for the progress bar.
        jobs: in the order in which to start them.
        worker: does them.
        workspace: where finished jobs lie, and where to show progress.
        workers: jobs at a time; None: one a core.

    Raises:
        RunFailed: a worker process died.
        KeyboardInterrupt: passed on once the jobs under way are finished and kept.
    """
    cells, console = workspace.cells, workspace.console
    waiting = [job for job in jobs if not cells.finished(job.name, worker.settings(job))]
    count = min(workers or cores(), len(waiting))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=len(jobs), completed=len(jobs) - len(waiting))
        try:
            for _ in _carried_out(waiting, worker, cells, count):
                progress.advance(bar)
        except BrokenProcessPool:
            raise RunFailed(
                "a worker process died, perhaps for want of memory; the finished runs are kept, "
                "workers=1 takes the least memory"
            ) from None
        except KeyboardInterrupt:
            console.out("interrupted; finished runs are kept, the same command goes on from there")
            raise
    kept = Cells(cells.directory)
    return [_cell(job, worker, kept) for job in jobs]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cell(job: J, worker: Worker[J, R], cells: Cells) -> R:
    result: R = cells.run(job.name, worker.settings(job), lambda: worker.work(job))
    return result


def _carried_out(
    jobs: Sequence[J], worker: Worker[J, R], cells: Cells, count: int
) -> Iterator[None]:
    """Run the jobs, and yield at the end of each; in this process where one is enough."""
    if count <= 1:
        for job in jobs:
            _cell(job, worker, Cells(cells.directory))
            yield
        return
    # Spawned, not forked: torch's threads do not survive a fork. No more jobs are handed over than
    # there are workers, so that an interrupt waits for those under way alone.
    context = multiprocessing.get_context("spawn")
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(count, context, _begin, (worker, cells.directory)) as pool:
        for job in jobs:
            if len(running) == count:
                running = yield from _one_finished(running)
            running.add(pool.submit(_work, job))
        while running:
            running = yield from _one_finished(running)


def _one_finished(running: set[Future[None]]) -> Generator[None, None, set[Future[None]]]:
    """Wait until a job ends; yield for every one that has, and return the others."""
    done, others = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        yield
    return others


_worker: list[tuple[Worker[Any, Any], Cells]] = []


def _begin(worker: Worker[Any, Any], directory: Path) -> None:
    """Set a worker process up: one thread, deaf to Ctrl-C, gone with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _worker[:] = [(worker, Cells(directory))]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(job: Any) -> None:
    _cell(job, *_worker[0])
