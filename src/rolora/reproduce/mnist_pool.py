"""Many small runs on a few cores: one process a core, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rolora.data.mnist import Mnist
from rolora.reproduce.framework import Cells
from rolora.reproduce.mnist_train import Job, Result, train
from rolora.types import RunFailed


def run_jobs(
    what: str,
    jobs: Sequence[Job],
    mnist: Mnist,
    cells: Cells,
    workers: int | None,
    console: Console,
) -> list[Result]:
    """The jobs' results, in order; those whose cell is finished are not run again.

    Args:
        what: of the jobs, for the progress bar.
        jobs: in the order in which to start them.
        mnist: the digits.
        cells: where finished jobs lie.
        workers: jobs at a time; None: one a core.
        console: where to show progress.

    Raises:
        RunFailed: a worker process died.
        KeyboardInterrupt: passed on once the jobs under way are finished and kept.
    """
    waiting = [job for job in jobs if not cells.finished(job.name, job.settings(mnist))]
    count = min(workers or _cores(), len(waiting))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=len(jobs), completed=len(jobs) - len(waiting))
        try:
            for _ in _carried_out(waiting, mnist, cells, count):
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
    return [_cell(job, mnist, kept) for job in jobs]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cell(job: Job, mnist: Mnist, cells: Cells) -> Result:
    result: Result = cells.run(job.name, job.settings(mnist), lambda: train(job, mnist))
    return result


def _carried_out(jobs: Sequence[Job], mnist: Mnist, cells: Cells, count: int) -> Iterator[None]:
    """Run the jobs, and yield at the end of each; in this process where one is enough."""
    if count <= 1:
        for job in jobs:
            _cell(job, mnist, Cells(cells.directory))
            yield
        return
    # Spawned, not forked: torch's threads do not survive a fork. No more jobs are handed over than
    # there are workers, so that an interrupt waits for those under way alone.
    context = multiprocessing.get_context("spawn")
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(count, context, _begin, (mnist, cells.directory)) as pool:
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


_worker: list[tuple[Mnist, Cells]] = []


def _begin(mnist: Mnist, directory: Path) -> None:
    """Set a worker process up: one thread, deaf to Ctrl-C, gone with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _worker[:] = [(mnist, Cells(directory))]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(job: Job) -> None:
    _cell(job, *_worker[0])
