"""``rolora federation init``: a directory with all that a federation needs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rolora.config import Config, load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.engines.flower.policy import Allow
from rolora.engines.flower.settings import (
    SOURCE,
    ServerConfig,
    SiteConfig,
    is_loopback,
    require_flower,
)

RUNBOOK = """\
# Runbook

A federation of {sites} sites around the server at `{address}`.

| file | what it is | who may have it |
| --- | --- | --- |
| `run.yaml` | the run: model, method, rounds | the server |
| `server.yaml` | where the server listens, whom it lets in | the server |
{key_files}| `site-N/` | all that site N needs | site N alone |

1. **Every machine**: `pip install "rolora[flower]"`, the same version everywhere.
2. **Server**: open TCP port {port} for the sites; nothing else is needed from outside.

   ```sh
   rolora server --config server.yaml{insecure}
   ```

3. **Site N**: {data_step}

   ```sh
   rolora client --config site-N/site.yaml{insecure}
   ```

   A site may be stopped and started again at any time; its model is loaded when a run begins.
4. **Run**, on the server's machine, in this directory and beside `rolora server`:

   ```sh
   rolora run run.yaml --out runs/first
   ```

   Interrupted or killed, it goes on where it was with `--resume` at the end of the same command.
   The adapter, the metrics and `report.html` are in `runs/first`; every site finds the adapter,
   with what it keeps for itself, in its `state/adapter`.
{security}
"""
SECURITY = """
## Keys

`tls/ca.key` signs the server's certificate: keep it offline. `site-N/node.key` is how the server
knows site N: hand each site its directory over a safe channel, and delete it here. A site may also
make its own, `ssh-keygen -t ecdsa -b 384 -f node.key` without a passphrase, and send the public
half for `sites` in `server.yaml`. The server's certificate holds for 825 days.

{peers}In this directory `rolora federation rekey . N` makes a new key for site N, whose old one is
lost, and `rolora federation renew . --address {address}` a new certificate for the server. Both
hold from the next start of `rolora server` on.
"""
PEERS = """\
`site-N/peers/` has the public keys of the other sites, and `site.yaml` names them: in a secure sum
site N takes no keys that they have not signed. Whoever kept a `node.key` can sign for its site. A
key that a site makes for itself goes to the others' `peers/` as well.

"""
OPEN = """
## No keys

There is no TLS and no authentication here: for one machine, or a network of your own.
"""


def write_project(
    directory: Path,
    config: Path | None,
    sites: int | None,
    address: str,
    one_machine: bool,
    insecure: bool,
) -> Path:
    """Write ``run.yaml``, ``server.yaml``, ``site-N/``, ``tls/`` and ``RUNBOOK.md``. For a run with
    a secure sum each site has the others' public keys, as its `peers`.

    Args:
        directory: must not hold anything yet.
        config: of the run; None for the defaults.
        sites: how many; None for the config's.
        address: where sites reach the server.
        one_machine: the sites share the config's data as the run's partition deals them out.
        insecure: without certificates and keys.

    Returns:
        the runbook.

    Raises:
        BadInput: the directory is taken, or an option does not fit.
    """
    require_flower()
    if directory.exists() and any(directory.iterdir()):
        raise BadInput(f"{directory}: is not empty; name a new directory")
    overrides = [] if sites is None else [f"federation.clients={sites}"]
    run = load_config(config, overrides) if config else _default_config(overrides)
    count, port = run.federation.clients, address.rpartition(":")[2]
    listen = address if is_loopback(address) else f"0.0.0.0:{port}"
    server: dict[str, Any] = {"address": listen}
    parse_section(ServerConfig, {"address": address}, "--address")  # its form
    for number in range(count):
        (directory / f"site-{number}").mkdir(parents=True)
    if not insecure:
        server |= _write_keys(directory, address, count)
        for number in range(count):
            _write_peers(directory, number, _pinned(run, number))
    _write_yaml(directory / "run.yaml", _run_settings(run, port, insecure))
    _write_yaml(directory / "server.yaml", server)
    for number in range(count):
        site = _site_settings(run, number, address, one_machine, insecure)
        parse_section(SiteConfig, site, f"site {number}")
        _write_yaml(directory / f"site-{number}" / "site.yaml", site)
    runbook = directory / "RUNBOOK.md"
    runbook.write_text(_runbook(run, address, one_machine, insecure))
    return runbook


def _default_config(overrides: list[str]) -> Config:
    from rolora.core.parsing import parse_overrides

    return parse_overrides(Config, overrides, "--sites")


def _run_settings(run: Config, port: str, insecure: bool) -> dict[str, Any]:
    """The run's config as it was given, on this engine."""
    raw = run.model_dump(mode="json", exclude_unset=True)
    raw["federation"] = {**raw.get("federation", {}), "clients": run.federation.clients}
    if run.data.path is not None:
        raw["data"]["path"] = str(run.data.path.resolve())
    raw["engine"] = {"name": "flower", "superlink": f"127.0.0.1:{port}"}
    if not insecure:
        raw["engine"]["authority"] = "tls/ca.crt"
    return raw


def _site_settings(
    run: Config, number: int, address: str, one_machine: bool, insecure: bool
) -> dict[str, Any]:
    source = run.data.model_dump(mode="json", include=SOURCE, exclude_defaults=True)
    if one_machine and run.data.path is not None:
        source["path"] = str(run.data.path.resolve())
    elif not one_machine:
        columns = {"text": run.data.text or "text", "label": run.data.label or "label"}
        pair = {} if run.data.text_pair is None else {"text_pair": run.data.text_pair}
        source = {"path": "data.csv", **columns, **pair}
    site: dict[str, Any] = {"server": address, "client": number, "data": source}
    if one_machine:
        site |= {"dealt": True, "threads": 1}
    site["allow"] = agreed_to(run)
    if one_machine:  # the data are the run's own
        site["allow"] |= {"examples": 1, "label_counts": True}
    if not insecure:
        site["tls"] = {"authority": "ca.crt", "node_key": "node.key"}
        if pinned := _pinned(run, number):
            site["peers"] = {peer: _pin(peer).as_posix() for peer in pinned}
    return site


def _pinned(run: Config, number: int) -> list[int]:
    """The sites whose keys this one is to know: all others, where there is a sum to hide in."""
    if run.least_sum is None:
        return []
    return [peer for peer in range(run.federation.clients) if peer != number]


def _pin(peer: int) -> Path:
    """Where a site has the public key of another."""
    return Path("peers", f"site-{peer}.pub")


def agreed_to(run: Config) -> dict[str, Any]:
    """The section ``allow`` of a site that takes part in `run` and in nothing that asks for more:
    the names in it, and the bounds that it needs where the defaults are tighter.
    """
    settings, usual = run.optimizer, Allow()
    steps, batch = settings.local_steps, settings.batch_size
    needs: dict[str, Any] = {
        "methods": [run.method.name],
        "heads": [run.model.head],
        "models": [run.model.name],
        "tasks": [run.task.name],
    }
    least: dict[str, int | None] = {
        "least_steps": steps,
        "least_batch": batch,
        "examples": steps and steps * batch,
    }
    most: dict[str, float | None] = {
        "most_steps": steps,
        "most_batch": max(batch, run.evaluation.batch_size),
        "rounds": run.rounds,
        "rank": run.lora.max_rank,
        "scaling": run.lora.largest_scaling,
    }
    needs |= {k: v for k, v in least.items() if v is not None and v < getattr(usual, k)}
    needs |= {k: v for k, v in most.items() if v is not None and v > getattr(usual, k)}
    if run.least_sum is not None:
        needs["least_sum"] = run.least_sum
    if run.server.weighting == "information":
        needs["label_counts"] = True
    return needs


def renew_certificate(directory: Path, address: str) -> Path:
    """Replace the certificate of the server in a federation's directory; sites notice nothing.

    Args:
        directory: that :func:`write_project` wrote.
        address: where sites reach the server; the certificate is for it.

    Returns:
        the certificate.

    Raises:
        BadInput: the authority's key is not there, or the address has not the form of one.
    """
    require_flower()
    parse_section(ServerConfig, {"address": address}, "--address")
    tls = directory / "tls"
    _there(tls / "ca.key", "the authority's key, with which to sign")
    _there(tls / "ca.crt", "the authority's certificate")
    for name in ("server.key", "server.crt"):
        (tls / name).unlink(missing_ok=True)
    _write_certificate(tls, address)
    return tls / "server.crt"


def replace_key(directory: Path, site: int) -> Path:
    """Make a new key for a site whose old one is lost or known to others. From its next start on
    ``rolora server`` lets the new one in and the old one no more. Other sites that have the old one
    among their `peers`, as far as their directories are here, get the new one in its place.

    Args:
        directory: that :func:`write_project` wrote.
        site: its number.

    Returns:
        the private key, for the site.

    Raises:
        BadInput: there is no such site, or the federation has no keys.
    """
    require_flower()
    _there(directory / "tls" / f"site-{site}.pub", f"the public key of site {site}")
    for name in ("node.key", "node.key.pub"):
        (directory / f"site-{site}" / name).unlink(missing_ok=True)
    _write_site_key(directory, site)
    for pin in directory.glob(f"site-*/{_pin(site)}"):
        shutil.copy(directory / "tls" / f"site-{site}.pub", pin)
    return directory / f"site-{site}" / "node.key"


def _there(path: Path, what: str) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: is not there; it is {what}")


def _write_keys(directory: Path, address: str, sites: int) -> dict[str, Any]:
    """The authority, the server's certificate and every site's key; the server's settings."""
    from rolora.engines.flower import certificates

    tls = directory / "tls"
    tls.mkdir()
    certificates.make_authority(tls, "rolora federation")
    _write_certificate(tls, address)
    for number in range(sites):
        _write_site_key(directory, number)
        shutil.copy(tls / "ca.crt", directory / f"site-{number}" / "ca.crt")
    files = {"authority": "ca.crt", "certificate": "server.crt", "key": "server.key"}
    return {
        "tls": {name: f"tls/{file}" for name, file in files.items()},
        "sites": {number: f"tls/site-{number}.pub" for number in range(sites)},
    }


def _write_certificate(tls: Path, address: str) -> None:
    from rolora.engines.flower import certificates

    host = address.rpartition(":")[0].strip("[]")
    certificates.make_server_certificate(tls, list(dict.fromkeys([host, "localhost", "127.0.0.1"])))


def _write_site_key(directory: Path, number: int) -> None:
    """The private half for the site, the public one for the server."""
    from rolora.engines.flower import certificates

    site = directory / f"site-{number}"
    site.mkdir(exist_ok=True)
    certificates.make_node_key(site / "node.key")
    shutil.copy(site / "node.key.pub", directory / "tls" / f"site-{number}.pub")


def _write_peers(directory: Path, number: int, pinned: Sequence[int]) -> None:
    """The public keys of other sites, for one."""
    for peer in pinned:
        pin = directory / f"site-{number}" / _pin(peer)
        pin.parent.mkdir(exist_ok=True)
        shutil.copy(directory / "tls" / f"site-{peer}.pub", pin)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def _runbook(run: Config, address: str, one_machine: bool, insecure: bool) -> str:
    loopback = is_loopback(address)
    peers = PEERS if run.least_sum is not None else ""
    return RUNBOOK.format(
        sites=run.federation.clients,
        address=address,
        port=address.rpartition(":")[2],
        insecure=" --insecure" if insecure and not loopback else "",
        data_step="each takes its share of the run's data."
        if one_machine
        else "put the path and the columns of its own data into `site.yaml`. They are read there "
        "and never leave. `allow` in it is what a run may do there; look through it, and see with\n"
        "   `rolora client --config site-N/site.yaml --show run.yaml` what this one would take.",
        key_files=""
        if insecure
        else "| `tls/` | the authority, the server's key, the sites' public keys | the server |\n",
        security=OPEN if insecure else SECURITY.format(address=address, peers=peers),
    )
