"""What a site and a server say for themselves, in YAML."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from rolora.config import DataConfig
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.core.section import Positive, Section
from rolora.core.yaml_text import read_mapping
from rolora.engines.flower.policy import Allow

Address = Annotated[str, Field(pattern=r"^[^\s/]+:\d+$")]


SOURCE = {
    "name",
    "path",
    "options",
    "subset",
    "text",
    "text_pair",
    "label",
    "train_split",
    "test_split",
}
"""The keys of ``data`` that say where a site's own examples are."""


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
    the run says. What the client keeps for itself, and the finished adapter, go to `state`. `allow`
    is what a run may do here (:class:`rolora.engines.flower.policy.Allow`). `peers` are the public
    keys of the other sites, by client, as ``node_key`` of each has them beside it: in a secure sum
    keys that they have not signed are refused. Without, whose they are is the server's word.
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
    allow: Allow = Allow()
    peers: dict[int, Path] = Field(default_factory=dict)


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
    raw = read_mapping(path, f"--config {path}")
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


def local(address: str) -> str:
    """The address at which this machine reaches what listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]", "::") else address


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
