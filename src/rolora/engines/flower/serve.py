"""``rolora client`` and ``rolora server``: a site and the server of a federation."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rolora.client.evaluation import Split
from rolora.client.runtime import ClientRuntime
from rolora.config import (
    Config,
    parse_config,
)
from rolora.core.errors import BadInput, RunFailed
from rolora.core.types import ClientInfo
from rolora.data.deal import deal
from rolora.engines.flower.policy import Agreed, few, outside
from rolora.engines.flower.told import Declined
from rolora.engines.preparation import checked_method, load
from rolora.model.loading import resolve_device
from rolora.model.lora import LoraModel
from rolora.records.atomic import write_atomic
from rolora.tasks import Task

if TYPE_CHECKING:
    from rolora.engines.flower.handler import SiteModel
    from rolora.engines.flower.launch import ServerTls, Service, SiteTls
    from rolora.engines.flower.messages import ClientFacts
    from rolora.secure.vouching import Vouching
from rolora.engines.flower.settings import (
    SOURCE,
    ServerConfig,
    SiteConfig,
    _insecure,
    _readable,
    local,
    require_flower,
)

Key = TypeVar("Key")

log = logging.getLogger(__name__)


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
        Declined: the site does not allow it; nothing of a model that it does not allow is loaded.
    """
    from rolora.engines.flower.handler import SiteModel

    allowed(outside(site.allow, run, site.model))
    config = of_site(site, run)
    loaded = load(config, log.warning)
    examples = loaded.examples
    if site.dealt:
        shares = deal(config, examples)
        examples = {name: own.select(shares[name][site.client]) for name, own in examples.items()}
    else:
        loaded.task.check_own(examples["train"])
    if site.threads is not None:
        torch.set_num_threads(site.threads)
    splits = {name: Split(own, [torch.arange(len(own))]) for name, own in examples.items()}
    size = len(examples["train"])
    allowed(few(site.allow, run, size))
    own = "a split of its own"  # whose name is the site's own, too
    test_from = f"{config.data.test:.0%} of the training data" if loaded.held_out else own
    return SiteModel(
        config=config,
        pretrained=loaded.pretrained,
        model=loaded.model,
        runtime=ClientRuntime.of(config, checked_method(config), loaded.task),
        splits=splits,
        facts=client_facts(loaded.task, splits, test_from, site.allow.label_counts),
        agreed=agreed(run, run.client(site.client, size), loaded.model),
        scores=site.allow.scores,
        vouching=None if run.least_sum is None else vouching_of(site),
    )


def vouching_of(site: SiteConfig) -> Callable[[str], Vouching]:
    """Who says, in the secure sums of a run, whose keys are whose.

    Raises:
        BadInput: a key cannot be read, or there is none to sign with.
    """
    from rolora.secure.primitives import signing_key, verifying_key
    from rolora.secure.vouching import OnTheServersWord, Signed

    if site.tls is None:
        if site.peers:
            raise BadInput("peers: the site's own keys are signed with tls.node_key; give it")
        return lambda run: OnTheServersWord()
    own = _key("tls.node_key", site.tls.node_key, signing_key)
    peers = {c: _key(f"peers.{c}", path, verifying_key) for c, path in site.peers.items()}
    return lambda run: Signed(run, own, peers)


def _key(name: str, path: Path, read: Callable[[bytes], Key]) -> Key:
    try:
        return read(_readable(name, path).encode())
    except ValueError as error:
        raise BadInput(f"{name} = {str(path)!r}: is no key of P-384 ({error})") from None


def allowed(outside: Sequence[str]) -> None:
    """See that nothing is outside of what a site allows.

    Raises:
        Declined: something is.
    """
    if outside:
        raise Declined("refused", "; ".join(outside))


def agreed(run: Config, client: ClientInfo, model: LoraModel) -> Agreed:
    """What a client agrees to when it joins a run."""
    method = checked_method(run)
    initial = method.init(model.initial_adapter(run.lora.max_rank, run.seed))
    return Agreed(run, method, initial, client)


def client_facts(
    task: Task, splits: Mapping[str, Split], test_from: str, strata_too: bool = True
) -> ClientFacts:
    """What a client tells of its own examples, the one share of each split.

    Args:
        task: of the run.
        splits: by name.
        test_from: where the test examples come from.
        strata_too: whether it tells how many there are of each stratum.
    """
    from rolora.engines.flower.messages import ClientFacts

    own = {name: split.examples.select(split.shares[0]) for name, split in splits.items()}
    names = own["train"].names
    size = len(task.strata_names(names))
    strata = {
        name: torch.bincount(part.strata, minlength=size).tolist() for name, part in own.items()
    }
    return ClientFacts(
        names=names,
        examples={name: len(part) for name, part in own.items()},
        strata=strata if strata_too else None,
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
    if not site.dealt:
        raw["partition"] = {}  # all of them are the site's own
    return parse_config(raw, source="the settings of the run on this site")


def _site_tls(site: SiteConfig, insecure: bool, notice: Callable[[str], None]) -> SiteTls | None:
    if site.tls is not None:
        from rolora.engines.flower.launch import SiteTls

        _readable("tls.authority", site.tls.authority)
        _readable("tls.node_key", site.tls.node_key)
        return SiteTls(site.tls.authority, site.tls.node_key)
    _insecure("server", site.server, insecure, notice)
    return None


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
    server.state.chmod(0o700)
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
    """Let the sites' keys in, and no others; those of an earlier start are in the database.

    The SuperLink takes no key twice. So a key is noted before it is registered and its node after:
    the one that a stop came between is found again as the node that nobody noted.
    """
    from rolora.engines.flower import launch

    home, noted = server.state / "operator", server.state / "registered.json"
    launch.prepare(home, local(server.address), authority)
    keys = {client: _readable(f"sites.{client}", key) for client, key in server.sites.items()}
    known: list[dict[str, Any]] = json.loads(noted.read_text()) if noted.exists() else []
    for site in list(known):
        if site["node"] is None:
            left = launch.registered_nodes(home) - {other["node"] for other in known}
            site["node"] = left.pop() if left else None
        if site["node"] is None or keys.get(site["client"]) != site["key"]:
            if site["node"] is not None:
                launch.unregister_node(home, site["node"])
            known.remove(site)
        write_atomic(noted, json.dumps(known))
    for client in sorted(keys.keys() - {site["client"] for site in known}):
        known.append({"client": client, "key": keys[client], "node": None})
        write_atomic(noted, json.dumps(known))
        known[-1]["node"] = launch.register_node(home, server.sites[client], client)
        write_atomic(noted, json.dumps(known))
