"""What ``rolora federation`` writes: directories, keys, certificates."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import yaml

pytest.importorskip("flwr")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from rolora.config import load_config, parse_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.engines.flower.policy import Allow, few, outside
from rolora.engines.flower.project import (
    agreed_to,
    renew_certificate,
    replace_key,
    write_project,
)
from rolora.engines.flower.serve import of_site, vouching_of
from rolora.engines.flower.settings import ServerConfig, SiteConfig, load_settings
from rolora.secure.forms import Keys, Refused, Seat, Terms

ADDRESS = "fed.example.org:9092"


@pytest.fixture
def project(run_yaml, tmp_path):
    write_project(tmp_path / "f", run_yaml, 2, ADDRESS, one_machine=False, insecure=False)
    return tmp_path / "f"


def fits(directory, site):
    """The site's private key and the public one that the server knows are halves of one."""
    private = load_ssh_private_key((directory / f"site-{site}" / "node.key").read_bytes(), None)
    public = load_ssh_public_key((directory / "tls" / f"site-{site}.pub").read_bytes())
    return private.public_key() == public


def certificate(directory):
    return x509.load_pem_x509_certificate((directory / "tls" / "server.crt").read_bytes())


def names(directory):
    found = certificate(directory).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in found.value]


def test_the_settings_fit_and_point_at_what_is_there(project):
    server = load_settings(ServerConfig, project / "server.yaml")
    assert server.address == "0.0.0.0:9092"
    assert all(path.is_file() for path in (*vars(server.tls).values(), *server.sites.values()))
    for number in range(2):
        site = load_settings(SiteConfig, project / f"site-{number}" / "site.yaml")
        assert (site.server, site.client) == (ADDRESS, number)
        assert site.tls.authority.is_file()
        assert site.tls.node_key.stat().st_mode & 0o777 == 0o600
        assert fits(project, number)
    run = yaml.safe_load((project / "run.yaml").read_text())
    assert run["engine"]["name"] == "flower"
    assert run["federation"]["clients"] == 2
    assert names(project) == ["fed.example.org", "localhost", "127.0.0.1"]
    assert f"rolora federation renew . --address {ADDRESS}" in (project / "RUNBOOK.md").read_text()


def test_a_new_key_is_another_one_and_known_to_the_server(project):
    old = (project / "tls" / "site-1.pub").read_text()
    other = (project / "tls" / "site-0.pub").read_text()
    assert replace_key(project, 1) == project / "site-1" / "node.key"
    assert (project / "tls" / "site-1.pub").read_text() not in (old, other)
    assert fits(project, 1)
    assert (project / "tls" / "site-0.pub").read_text() == other


@pytest.fixture
def summing(run_yaml, tmp_path):
    """A federation whose run has a secure sum."""
    (tmp_path / "sum.yaml").write_text(run_yaml.read_text() + "\nsecure_sum: {threshold: 0.67}\n")
    write_project(tmp_path / "f", tmp_path / "sum.yaml", 3, ADDRESS, False, insecure=False)
    return tmp_path / "f"


def vouched(directory):
    """By site, what it has for its own and for the others' keys in a secure sum of one run."""
    sites = [load_settings(SiteConfig, directory / f"site-{n}" / "site.yaml") for n in range(3)]
    return [vouching_of(site)("run") for site in sites]


def test_sites_of_a_run_with_a_secure_sum_pin_each_other_s_keys(summing):
    """What each signs, the others take, and nothing that another one signs in its name."""
    keys, found = Keys(*[bytes(32)] * 3), vouched(summing)
    terms = Terms(round=1, threshold=3, most=3, reach=4.0, by_examples=True)
    for site, another, judge in permutations(range(3)):
        seat = Seat(site, 10, keys, found[site].sign(site, terms, keys))
        found[judge].check(seat, terms)
        forged = replace(seat, signature=found[another].sign(site, terms, keys))
        with pytest.raises(Refused, match="not signed with the key in peers"):
            found[judge].check(forged, terms)
    assert "`site-N/peers/` has the public keys" in (summing / "RUNBOOK.md").read_text()


def test_a_new_key_is_the_one_that_the_others_pin(summing):
    replace_key(summing, 1)
    for other in (0, 2):
        pin = summing / f"site-{other}" / "peers" / "site-1.pub"
        assert pin.read_text() == (summing / "site-1" / "node.key.pub").read_text()
    assert not (summing / "site-1" / "peers" / "site-1.pub").exists()


def test_without_a_secure_sum_nothing_is_pinned(project):
    assert not list(project.rglob("peers"))
    assert "peers" not in (project / "RUNBOOK.md").read_text()


def test_a_new_key_for_a_site_whose_directory_was_handed_over(project):
    for path in (project / "site-1").iterdir():
        path.unlink()
    (project / "site-1").rmdir()
    replace_key(project, 1)
    assert fits(project, 1)


def test_a_new_certificate_is_the_authoritys_and_for_the_new_address(project):
    authority = x509.load_pem_x509_certificate((project / "tls" / "ca.crt").read_bytes())
    before = certificate(project).serial_number
    renew_certificate(project, "[2001:db8::1]:9092")
    certificate(project).verify_directly_issued_by(authority)
    assert certificate(project).serial_number != before
    assert names(project) == ["2001:db8::1", "localhost", "127.0.0.1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: replace_key(f, 2), "site-2.pub: is not there; it is the public key of site 2"),
        (lambda f: renew_certificate(f, "fed.example.org"), "--address"),
        (lambda f: renew_certificate(f / "other", ADDRESS), "ca.key: is not there"),
    ],
)
def test_what_cannot_be_renewed_is_said_and_nothing_is_touched(project, change, words):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match=words):
        change(project)
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method.name=fedsa_lora", "model.head=train", "lora.r=128", "lora.lora_alpha=10000"],
        ["optimizer.local_steps=1", "optimizer.batch_size=4", "rounds=1000"],
        ["optimizer.local_steps=null", "optimizer.local_epochs=2"],
        ["server.weighting=information", "evaluation.batch_size=5000"],
    ],
)
def test_a_site_allows_the_run_that_it_was_made_for_and_no_more(overrides, tmp_path):
    (tmp_path / "run.yaml").write_text("{}")
    run = load_config(tmp_path / "run.yaml", overrides)
    allow = parse_section(Allow, agreed_to(run), "allow")
    assert outside(allow, run, None) == []
    assert few(allow, run, 1000) == []
    other = load_config(tmp_path / "run.yaml", [*overrides, "method.name=flora", "model.name=/x"])
    assert len(outside(allow, other, None)) == 2


@pytest.mark.parametrize("dealt", [True, False])
def test_a_site_s_own_data_are_all_its_own_whatever_the_run_partitions_by(dealt):
    """Its file needs no column of sites, and may be read in a way of its own."""
    run = parse_config(
        {"data": {"text": "note", "label": "kind"}, "partition": {"name": "field", "field": "site"}}
    )
    own = {"path": "d.csv", "text": "note", "label": "kind", "options": {"sep": ";"}}
    raw = {"server": "127.0.0.1:1", "client": 0, "data": own, "dealt": dealt}
    config = of_site(parse_section(SiteConfig, raw, "site"), run)
    assert config.partition.by == ("site" if dealt else None)
    assert config.data.options.sep == ";"
