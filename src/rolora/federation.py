"""A run across machines: its server, its sites, and the connection between them.

Importing this needs no ``flwr``; running any of it needs the extra ``rolora[flower]``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
import yaml
from pydantic import Field

from rolora.atomic import write_atomic
from rolora.config import (
    YAML_ERRORS,
    Config,
    DataConfig,
    Positive,
    Section,
    parse_config,
    parse_section,
)
from rolora.data import Examples, load_data
from rolora.engines.in_process import InProcess, Split
from rolora.ledger import Ledger
from rolora.models import build_lora_model, load_pretrained, resolve_device
from rolora.run import DataFacts, Ready, TrainingEngine, checked_method, deal, tokenized
from rolora.server import needed
from rolora.types import BadInput, Layout, RunFailed

if TYPE_CHECKING:
    from rolora.engines.flower.handler import SiteModel
    from rolora.engines.flower.launch import ServerTls, Service, SiteTls
    from rolora.engines.flower.messages import ClientFacts
    from rolora.engines.flower.results import Transport

Address = Annotated[str, Field(pattern=r"^[^\s/]+:\d+$")]
SOURCE = {"name", "path", "subset", "text", "text_pair", "label", "train_split", "test_split"}
"""The keys of ``data`` that say where a site's own examples are."""
SITE_SECTIONS = {"rounds", "engine", "checkpoint"}
"""Sections of a run's config that do not concern its sites."""
_STRAGGLERS_S = 10.0

log = logging.getLogger(__name__)


class SiteKeys(Section):
    """The authority's certificate, and the key by which the server knows the site."""

    authority: Path
    node_key: Path


class SiteConfig(Section):
    """What a site says for itself: where the server is, who it is, where its data are.

    Everything else, from the model to the learning rate, comes from the run. `data` names the
    site's own examples, all of which are its own; with `dealt` they are the data of the whole run,
    of which the site takes the share that the run's partition deals this client, to try a
    federation on one machine. `model` is where the run's model lies on this machine, if not where
    the run says. What the client keeps for itself, and the finished adapter, go to `state`.
    """

    server: Address
    client: Annotated[int, Field(ge=0)]
    data: DataConfig
    dealt: bool = False
    model: str | None = None
    device: str = "auto"
    threads: Positive | None = None
    tls: SiteKeys | None = None
    state: Path = Path("state")


class ServerKeys(Section):
    """The authority's certificate, the server's own, and its key."""

    authority: Path
    certificate: Path
    key: Path


class ServerConfig(Section):
    """Where ``rolora server`` listens, and the public keys of the sites it lets in, by client."""

    address: Address = "127.0.0.1:9092"
    tls: ServerKeys | None = None
    sites: dict[int, Path] = Field(default_factory=dict)
    state: Path = Path("state")


S = TypeVar("S", SiteConfig, ServerConfig)


def load_settings(section: type[S], path: Path) -> S:
    """Read the YAML file of a site or a server; relative paths are taken from where it lies.

    Raises:
        BadInput: the file cannot be read, or holds a wrong key or value.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, *YAML_ERRORS) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--config {path}: cannot be read ({first})") from None
    if not isinstance(raw, dict):
        raise BadInput(f"--config {path}: must be a mapping of keys to values")
    return _beside(path.parent, parse_section(section, raw, str(path)))


def _beside(directory: Path, section: S) -> S:
    """The section with its relative paths, and those of its sections, taken from `directory`."""

    def placed(value: object) -> object:
        if isinstance(value, Path):
            return value if value.is_absolute() else (directory / value).resolve()
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        if isinstance(value, Section):
            given = {name: placed(getattr(value, name)) for name in value.model_fields_set}
            return value.model_copy(update=given)
        return value

    fields = {name: placed(getattr(section, name)) for name in type(section).model_fields}
    return section.model_copy(update=fields)


# A site ------------------------------------------------------------------------------------


def serve_client(site: SiteConfig, insecure: bool, notice: Callable[[str], None]) -> None:
    """Serve runs from this site until interrupted.

    Raises:
        BadInput: the site's settings do not fit, or the way to the server is not secured.
        RunFailed: the server refuses the site.
        KeyboardInterrupt: once everything is stopped.
    """
    require_flower()
    from rolora.engines.flower import launch
    from rolora.engines.flower.handler import SiteHandler
    from rolora.engines.flower.site import serve_site

    tls = _site_tls(site, insecure, notice)
    resolve_device(site.device)
    site.state.mkdir(parents=True, exist_ok=True)
    logging.getLogger("rolora").setLevel(logging.INFO)

    def start_node(worker: Path) -> launch.Service:
        session = site.state / "session"
        command = launch.node_command(site.server, site.client, worker, tls, session)
        return launch.Service(command, site.state / "node.log", site.state / "flower")

    handler = SiteHandler(site.client, lambda config: load_site(site, config), site.state)
    notice(f"client {site.client} serves {site.server}; log of its node: {site.state}/node.log")
    serve_site(handler, start_node)


def load_site(site: SiteConfig, run: Config) -> SiteModel:
    """The model and the site's examples, for the settings of a run.

    Raises:
        BadInput: something cannot be had or does not fit.
    """
    from rolora.engines.flower.handler import SiteModel

    config = of_site(site, run)
    raw = load_data(config.data, config.seed)
    pretrained = load_pretrained(config.model, raw.train.label_names, config.seed)
    examples = tokenized(raw, pretrained, config)
    if site.dealt:
        shares = deal(config, examples)
        examples = {name: own.select(shares[name][site.client]) for name, own in examples.items()}
    everything = {name: torch.arange(len(own)) for name, own in examples.items()}
    splits = splits_of(site.client, config.federation.clients, examples, everything)
    threads = site.threads or torch.get_num_threads()
    engine = InProcess(config, build_lora_model(pretrained, config), splits, threads)
    return SiteModel(config, pretrained, engine, client_facts(splits, site.client, raw.test_from))


def splits_of(
    client: int, clients: int, examples: Mapping[str, Examples], rows: Mapping[str, torch.Tensor]
) -> dict[str, Split]:
    """Splits of which `rows` are the client's own, and the other clients have nothing."""
    nothing = torch.arange(0)
    return {
        name: Split(own, [rows[name] if i == client else nothing for i in range(clients)])
        for name, own in examples.items()
    }


def client_facts(splits: Mapping[str, Split], client: int, test_from: str) -> ClientFacts:
    """What a client tells of its own examples."""
    from rolora.engines.flower.messages import ClientFacts

    own = {name: split.examples.select(split.shares[client]) for name, split in splits.items()}
    return ClientFacts(
        label_names=own["train"].label_names,
        labels={
            name: torch.bincount(part.labels, minlength=part.num_labels).tolist()
            for name, part in own.items()
        },
        test_from=test_from,
        fingerprint=hashlib.sha256(
            "".join(part.fingerprint for part in own.values()).encode()
        ).hexdigest(),
    )


def of_site(site: SiteConfig, run: Config) -> Config:
    """The settings of a run with a site's own in place: one client, its data, its device."""
    shared = run.data.model_dump(mode="json", exclude=SOURCE)
    own = site.data.model_dump(mode="json", include=site.data.model_fields_set)
    raw = run.model_dump(mode="json")
    raw["data"] = {**shared, **own}
    raw["model"] |= {"name": site.model or run.model.name, "device": site.device}
    raw["engine"] = {"name": "in_process", "stack": 1, "workers": 1}
    return parse_config(raw, source="the settings of the run on this site")


def _site_tls(site: SiteConfig, insecure: bool, notice: Callable[[str], None]) -> SiteTls | None:
    if site.tls is not None:
        from rolora.engines.flower.launch import SiteTls

        _readable("tls.authority", site.tls.authority)
        _readable("tls.node_key", site.tls.node_key)
        return SiteTls(site.tls.authority, site.tls.node_key)
    _insecure("server", site.server, insecure, notice)
    return None


# The server --------------------------------------------------------------------------------


def serve_server(server: ServerConfig, insecure: bool, notice: Callable[[str], None]) -> None:
    """Take sites in and hand messages on until interrupted.

    Raises:
        BadInput: the address is to be reached from elsewhere and is not secured.
        RunFailed: the address cannot be had.
        KeyboardInterrupt: once everything is stopped.
    """
    require_flower()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_server(server, insecure, notice) as superlink:
        notice(f"serving on {server.address}; log: {superlink.log}")
        superlink.process.wait()
    raise RunFailed(f"the server ended; {superlink.log} ends:\n{superlink.output()[-2000:]}")


@contextmanager
def running_server(
    server: ServerConfig, insecure: bool, notice: Callable[[str], None]
) -> Iterator[Service]:
    """The SuperLink, with the sites' keys registered; stopped in the end.

    Raises:
        BadInput: the address is to be reached from elsewhere and is not secured.
        RunFailed: the address cannot be had.
    """
    from rolora.engines.flower import launch

    tls = _server_tls(server, insecure, notice)
    server.state.mkdir(parents=True, exist_ok=True)
    database = server.state / "superlink.db"
    with launch.start_superlink(server.state, server.address, tls, database) as superlink:
        if tls is not None:
            _register(server, tls.authority)
        yield superlink


def _server_tls(
    server: ServerConfig, insecure: bool, notice: Callable[[str], None]
) -> ServerTls | None:
    if server.tls is None:
        _insecure("address", server.address, insecure, notice)
        return None
    from rolora.engines.flower.launch import ServerTls

    for name, path in server.tls:
        _readable(f"tls.{name}", path)
    return ServerTls(server.tls.authority, server.tls.certificate, server.tls.key)


def _register(server: ServerConfig, authority: Path) -> None:
    """Let the sites' keys in, and no others; those of an earlier start are in the database."""
    from rolora.engines.flower import launch

    home, noted = server.state / "operator", server.state / "registered.json"
    launch.prepare(home, local(server.address), authority)
    keys = {client: _readable(f"sites.{client}", key) for client, key in server.sites.items()}
    known: list[dict[str, Any]] = json.loads(noted.read_text()) if noted.exists() else []
    for site in list(known):
        if keys.get(site["client"]) != site["key"]:
            launch.unregister_node(home, site["node"])
            known.remove(site)
            write_atomic(noted, json.dumps(known))
    for client in sorted(keys.keys() - {site["client"] for site in known}):
        node = launch.register_node(home, server.sites[client], client)
        known.append({"client": client, "key": keys[client], "node": node})
        write_atomic(noted, json.dumps(known))


def local(address: str) -> str:
    """The address at which this machine reaches what listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "::") else address


# The run -----------------------------------------------------------------------------------


@contextmanager
def connected(config: Config, notice: Callable[[str], None]) -> Iterator[Ready]:
    """A run over the clients that ``rolora server`` on this machine has connected, or, with
    ``engine.runtime: simulation``, over Flower's own simulation.

    Raises:
        BadInput: the config does not fit, or the clients' labels do not agree.
        RunFailed: the server, or a quorum of the clients, is not there.
    """
    require_flower()
    from rolora.engines.flower import launch
    from rolora.engines.flower.session import flower_run
    from rolora.engines.flower.transport import FlowerTransport

    engine = config.engine
    checked_method(config)
    if engine.runtime == "simulation":
        from rolora.engines.flower.simulation import simulation

        with simulation(config, hello(config)) as grid:
            yield joined(config, FlowerTransport(grid, hello(config), []), notice)
        return
    resolve_device(config.model.device)
    if engine.authority is not None:
        _readable("engine.authority", engine.authority)
    authority = engine.authority and engine.authority.resolve()
    outages: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rolora-") as directory:
        home, where = Path(directory), (engine.superlink, authority, engine.patience)
        launch.prepare(home, engine.superlink, authority)
        with flower_run(home, *where, outages.append) as grid:
            yield joined(config, FlowerTransport(grid, hello(config), outages), notice)


def hello(config: Config) -> list[bytes]:
    """What every site is told of a run."""
    from rolora.engines.flower.messages import pack_hello

    return pack_hello(config.model_dump(mode="json", exclude=SITE_SECTIONS))


def joined(config: Config, transport: Transport, notice: Callable[[str], None]) -> Ready:
    """A run over the clients that `transport` reaches, once a quorum of them is there.

    Raises:
        BadInput: the config does not fit, or the clients' labels do not agree.
        RunFailed: a quorum of the clients is not there.
    """
    method = checked_method(config)
    federation = Federation(config, transport, *_gather(config, transport, notice))
    pretrained = load_pretrained(config.model, federation.label_names, config.seed)
    model = build_lora_model(pretrained, config)
    labels = json.dumps(federation.label_names)
    return Ready(
        config=config,
        method=method,
        pretrained=pretrained,
        model=model,
        data=f"labels {labels} of {config.federation.clients} sites, which check their own",
        facts=federation.facts,
        engine=lambda run, ledger: federation.engine(run, ledger, model.layout),
    )


def _gather(
    config: Config, transport: Transport, notice: Callable[[str], None]
) -> tuple[tuple[str, ...], dict[int, ClientFacts]]:
    """Wait for the clients; the names of their labels, and what each says of its data."""
    from rolora.engines.flower.engine import wrong_labels
    from rolora.engines.flower.messages import unpack_facts

    clients = range(config.federation.clients)
    wanted = needed(config.federation.quorum, len(clients))
    notice(f"waiting for {len(clients)} clients")
    enough = transport.wait_for(wanted, config.engine.patience, clients)
    transport.wait_for(len(clients), _STRAGGLERS_S, clients)
    seen = {c: unpack_facts(frames) for c, frames in transport.clients.items() if c in clients}
    for node, why in transport.refusals.items():
        notice(f"node {node} does not join: {why}")
    if not enough:
        raise RunFailed(
            f"{len(seen)} of {len(clients)} clients have joined at {config.engine.superlink} "
            f"within {config.engine.patience:g} s; federation.quorum needs {wanted}"
        )
    names = seen[min(seen)].label_names
    for client, facts in seen.items():
        if facts.label_names != names:
            raise BadInput(f"client {client}: {wrong_labels(facts, names)}")
    notice(f"{len(seen)} of {len(clients)} clients have joined")
    return names, seen


@dataclass(frozen=True)
class Federation:
    """The clients of a run, and what they said of their data."""

    config: Config
    transport: Transport
    label_names: tuple[str, ...]
    seen: dict[int, ClientFacts]

    def engine(self, run: str, ledger: Ledger, layout: Callable[[int], Layout]) -> TrainingEngine:
        """The engine of one run."""
        from rolora.engines.flower.engine import FlowerEngine, RunFacts

        facts = RunFacts(run, self.label_names, layout)
        return FlowerEngine(self.transport, self.config, facts, ledger, self.seen)

    def facts(self) -> DataFacts:
        """What the clients that ever joined said of their data, put together."""
        clients = range(self.config.federation.clients)
        none = [0] * len(self.label_names)
        test = [sum(n) for n in zip(*self._counts("test").values(), strict=True)]
        prints = "".join(self.seen[c].fingerprint for c in sorted(self.seen))
        return DataFacts(
            label_names=self.label_names,
            examples={
                split: sum(facts.examples(split) for facts in self.seen.values())
                for split in ("train", "validation", "test")
            },
            label_table=[self._counts("train").get(client, none) for client in clients],
            test_labels=test,
            test_from="; ".join(sorted({facts.test_from for facts in self.seen.values()})),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        )

    def _counts(self, split: str) -> Mapping[int, list[int]]:
        return {client: list(facts.labels[split]) for client, facts in self.seen.items()}


# Common ------------------------------------------------------------------------------------


def require_flower() -> None:
    """Raise BadInput where the extra is not installed."""
    if find_spec("flwr") is None:
        raise BadInput("Flower is not installed; pip install 'rolora[flower]'")


def is_loopback(address: str) -> bool:
    """Whether `address`, as ``host:port``, is this machine's alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _insecure(key: str, address: str, insecure: bool, notice: Callable[[str], None]) -> None:
    if is_loopback(address):
        return
    if not insecure:
        raise BadInput(
            f"{key} = {address!r}: is reached over a network, and tls is not given; give it "
            "(rolora federation init makes the keys), or add --insecure"
        )
    notice(
        "WARNING: no TLS and no authentication: whoever is on the network can read and change "
        "what is sent, and take part"
    )


def _readable(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{key} = {str(path)!r}: cannot be read ({error})") from None
