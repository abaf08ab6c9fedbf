"""The Flower transport: its parts alone, and real processes on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("flwr")

from flower_cluster import Cluster, power_cut, wait_for_text
from rolora.core.errors import RunFailed
from rolora.engines.flower import certificates, launch, payload
from rolora.engines.flower.results import Reply
from rolora.engines.flower.site import serve_site
from rolora.engines.flower.superlink import Gate
from rolora.engines.flower.worker import Worker, WorkerError, _send, ask


@pytest.fixture
def worker():
    """A worker in a thread; `worker.of(handle)` starts it."""
    started = []

    def start(handle):
        started.append(Worker(handle))
        threading.Thread(target=started[-1].run, daemon=True).start()
        return started[-1]

    yield start
    for one in started:
        one.close()


class TestWorker:
    def test_frames_come_back(self, worker):
        path = worker(lambda frames: [*frames, b"", b"end"]).path
        assert ask(path, [b"a", b"b" * 3_000_000]) == [b"a", b"b" * 3_000_000, b"", b"end"]

    def test_a_request_that_fails_does_not_end_it(self, worker):
        def handle(frames):
            if frames == [b"bad"]:
                raise ValueError("no such round")
            return frames

        path = worker(handle).path
        with pytest.raises(WorkerError, match="an error at the site"):
            ask(path, [b"bad"])
        assert ask(path, [b"good"]) == [b"good"]

    def test_a_caller_that_dies_does_not_end_it(self, worker):
        seen = threading.Event()

        def handle(frames):
            seen.set()
            time.sleep(0.1)
            return [b"x" * 10_000_000]

        path = worker(handle).path
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            caller.sendall(b"\0\0\0\0\1" + (3).to_bytes(8, "big") + b"abc")
            assert seen.wait(5)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            caller.sendall(b"\0\0")
        assert len(ask(path, [b"next"])[0]) == 10_000_000

    def test_nobody_else_can_reach_it(self, worker):
        assert worker(list).path.parent.stat().st_mode & 0o777 == 0o700

    def test_closing_it_removes_the_socket_and_says_so(self, worker):
        one = worker(list)
        one.close()
        assert not one.path.parent.exists()
        with pytest.raises(WorkerError, match="does not answer"):
            ask(one.path, [b"hello"])


def test_payload_keeps_frames_and_names_the_sender():
    frames = [b"", bytes(range(256)) * 50_000, b"header"]
    content = payload.pack(frames, client=7)
    assert payload.unpack(content) == frames
    assert payload.sender(content) == 7


def test_payload_of_another_app_is_refused():
    from flwr.app import RecordDict

    with pytest.raises(ValueError, match="without frames"):
        payload.unpack(RecordDict())
    with pytest.raises(ValueError, match="from client -1"):
        payload.sender(payload.pack([b"x"]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("1.0"),
        lambda content: content["frames"].pop("0"),
        lambda content: content["1.0"].update(chunk="text"),
        lambda content: content["frames"].update(count="two"),
        lambda content: content["frames"].update(count=10**12),
    ],
)
def test_payload_that_is_damaged_is_refused(damage):
    content = payload.pack([b"a", bytes(2_000_000)])
    damage(content)
    with pytest.raises(ValueError, match="frames missing"):
        payload.unpack(content)


@pytest.mark.parametrize("module", ["client_app", "node", "compat.node"])
def test_a_forwarder_imports_no_torch(module):
    code = f"import sys, rolora.engines.flower.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A federation's authority, server certificate and one site's key."""
    directory = tmp_path_factory.mktemp("tls")
    certificates.make_authority(directory, "test")
    certificates.make_server_certificate(directory, ["127.0.0.1", "localhost"])
    certificates.make_node_key(directory / "site0")
    return directory


class TestCertificates:
    @pytest.mark.parametrize(("host", "trusted"), [("localhost", True), ("example.org", False)])
    def test_the_server_is_known_by_its_names_only(self, authority, host, trusted):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(authority / "server.crt", authority / "server.key")
        client = ssl.create_default_context(cafile=str(authority / "ca.crt"))
        ours, theirs = socket.socketpair()

        def serve():
            try:
                server.wrap_socket(theirs, server_side=True)
            except ssl.SSLError:
                theirs.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if trusted:
                client.wrap_socket(ours, server_hostname=host)
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    client.wrap_socket(ours, server_hostname=host)
        finally:
            thread.join()
            ours.close()
            theirs.close()

    @pytest.mark.parametrize("name", ["ca.key", "server.key", "site0"])
    def test_keys_are_their_owners_alone(self, authority, name):
        assert (authority / name).stat().st_mode & 0o777 == 0o600

    def test_an_authority_is_never_written_over(self, authority):
        with pytest.raises(FileExistsError):
            certificates.make_authority(authority, "another")


class TestGate:
    """Which requests reach the SuperLink, by path and by the address they come from."""

    @pytest.mark.parametrize(
        ("path", "peer", "status"),
        [
            ("/v1/fleet/pull-messages", "192.0.2.7", 200),
            ("/health", "192.0.2.7", 200),
            ("/v1/control/start-run", "127.0.0.1", 200),
            ("/v1/control/start-run", "::1", 200),
            ("/v1/control/start-run", "192.0.2.7", 403),
            ("/v1/runtime/acquire-task", "192.0.2.7", 403),
            ("/v1/fleet", "192.0.2.7", 403),
            ("/docs", "192.0.2.7", 403),
        ],
    )
    def test_only_the_fleet_api_is_open_to_others(self, path, peer, status):
        async def superlink(scope, receive, send):
            await send({"type": "http.response.start", "status": 200})

        statuses = []

        async def send(event):
            statuses.extend([event["status"]] if "status" in event else [])

        length = [(b"content-length", b"0")]
        scope = {"type": "http", "path": path, "client": (peer, 4711), "headers": length}
        asyncio.run(Gate(superlink)(scope, None, send))
        assert statuses == [status]


def echo(frames):
    """Answers with what it was sent, and its own mark."""
    return [b"echo " + frames[0], *frames[1:]]


def ask_all(transport, requests, deadline_s=60.0):
    """Results by client."""
    return {r.client: r for r in transport.send_and_receive(requests, deadline_s)}


@pytest.mark.slow
class TestCluster:
    @pytest.fixture(scope="class")
    def cluster(self, tmp_path_factory):
        with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
            yield cluster

    def test_answers_failures_and_deadlines(self, cluster):
        def moody(frames):
            if frames[0] == b"fail":
                raise ValueError("not in the mood")
            if frames[0] == b"sleep":
                time.sleep(4)
            large = {b"noise": os.urandom(40_000_000), b"alike": b"x" * 40_000_000}
            return [b"moody", frames[0], large.get(frames[0], b"")]

        cluster.start_node(0, echo)
        cluster.start_node(1, moody)
        with cluster.run(2, max_bytes=30_000_000) as transport:
            assert transport.clients == {0: [b"echo hello"], 1: [b"moody", b"hello", b""]}

            noise = os.urandom(12_000_000)
            plain = ask_all(transport, {0: [b"a", noise], 1: [b"b", noise], 5: [b"c"]})
            assert plain[0].frames == [b"echo a", noise]
            assert plain[1].frames == [b"moody", b"b", b""]
            assert plain[5].reason == "absent"

            failed = ask_all(transport, {0: [b"a"], 1: [b"fail"]})
            assert (failed[1].reason, failed[1].detail) == (
                "site_error",
                "an error at the site; its log says which",
            )
            assert failed[0].frames == [b"echo a"]

            start = time.monotonic()
            late = ask_all(transport, {0: [b"a"], 1: [b"sleep"]}, deadline_s=2)
            assert 2 <= time.monotonic() - start < 4  # in which client 1 would have answered
            assert late[1].reason == "deadline"
            assert late[0].seconds < 2

            # The second is one chunk, sent once, standing there ten times.
            for large in (b"noise", b"alike"):
                assert ask_all(transport, {1: [large]})[1].reason == "too_large"
            assert ask_all(transport, {1: [b"again"]})[1].frames == [b"moody", b"again", b""]

    def test_flowers_own_supernode_serves_too(self, cluster):
        cluster.start_supernode(2, echo)
        with cluster.run(3) as transport:
            assert ask_all(transport, {2: [b"a"]})[2].frames == [b"echo a"]

    def test_one_run_after_another(self, cluster):
        with cluster.run(1) as transport, pytest.raises(KeyboardInterrupt):
            raise KeyboardInterrupt
        with cluster.run(1) as transport:
            assert ask_all(transport, {0: [b"a"]})[0].frames == [b"echo a"]


SITE = """
import sys, time
from pathlib import Path
from rolora.engines.flower import launch
from rolora.engines.flower.site import serve_site

address, directory = sys.argv[1], Path(sys.argv[2])

def handle(frames):
    if frames[0] == b"slow":
        time.sleep(30)
    return frames

def start_node(worker):
    command = launch.node_command(address, 0, worker, None, directory / "session")
    return launch.Service(command, directory / "node.log", directory)

serve_site(handle, start_node)
"""


def later(seconds, action):
    """Do something while the caller waits for answers."""
    threading.Timer(seconds, action).start()


@pytest.mark.faults
class TestFaults:
    def test_nodes_that_join_leave_and_come_back(self, tmp_path):
        """A late joiner; a node that signs off; a node killed in the middle and started anew."""

        def slow(frames):
            time.sleep(2 if frames[0] == b"slow" else 0)
            return frames

        with Cluster(tmp_path) as cluster:
            cluster.start_node(0, echo)
            cluster.start_node(1, slow)
            with cluster.run(2) as transport:
                cluster.start_node(2, echo)
                transport.wait_for(3, 30)
                assert ask_all(transport, {2: [b"a"]})[2].frames == [b"echo a"]
                cluster.nodes[2].stop()
                assert ask_all(transport, {2: [b"a"]})[2].reason == "absent"

                def replace_node():
                    power_cut(cluster.nodes[1])
                    cluster.start_node(1, slow)

                later(1, replace_node)
                start = time.monotonic()
                killed = ask_all(transport, {0: [b"a"], 1: [b"slow"]}, deadline_s=100)
                assert time.monotonic() - start < 20
                assert killed[0].frames == [b"echo a"]
                assert killed[1].reason == "replaced"
                assert ask_all(transport, {1: [b"a"]})[1].frames == [b"a"]

    def test_a_site_killed_with_its_worker_signs_off(self, tmp_path):
        """The node ends when the worker's process is killed, and the round goes on at once."""
        with Cluster(tmp_path) as cluster:
            command = [sys.executable, "-c", SITE, cluster.address, str(tmp_path)]
            site = subprocess.Popen(command)
            with cluster.run(1) as transport:
                later(1, site.kill)
                start = time.monotonic()
                lost = ask_all(transport, {0: [b"slow"]}, deadline_s=50)[0]
                assert lost.reason == "node_lost"
                assert time.monotonic() - start < 10
                site.wait()
                site = subprocess.Popen(command)
                deadline = time.monotonic() + 60
                # The node that died may be counted for a moment longer, and be asked once more.
                while not isinstance(answer := ask_all(transport, {0: [b"a"]})[0], Reply):
                    assert time.monotonic() < deadline, answer
                    transport.wait_for(1, 30)
                assert answer.frames == [b"a"]
            site.send_signal(signal.SIGINT)
            assert site.wait(10) != 0

    def test_a_restarted_superlink_finds_its_run_going(self, tmp_path):
        with Cluster(tmp_path, database=True) as cluster:

            def slow(frames):
                time.sleep(3 if frames[0] == b"slow" else 0)
                return frames

            cluster.start_node(0, echo)
            cluster.start_node(1, slow)
            with cluster.run(2) as transport:

                def restart():
                    power_cut(cluster.superlink)
                    cluster.start_superlink()

                later(1, restart)
                answers = ask_all(transport, {0: [b"a"], 1: [b"slow"]}, deadline_s=100)
                assert answers[0].frames == [b"echo a"]
                assert answers[1].frames == [b"slow"]
                assert ask_all(transport, {1: [b"a"]})[1].frames == [b"a"]

    def test_a_superlink_that_stays_away_ends_the_run(self, tmp_path):
        with Cluster(tmp_path) as cluster:
            cluster.start_node(0, echo)
            with (  # noqa: PT012
                pytest.raises(RunFailed, match="has not answered for 2 s"),
                cluster.run(1, patience_s=2) as transport,
            ):
                power_cut(cluster.superlink)
                ask_all(transport, {0: [b"a"]})

    def test_keys_and_certificates_decide_who_joins(self, tmp_path, authority, caplog, monkeypatch):
        """A registered site joins, also anew after a crash, and only as itself; another key or
        authority does not.
        """
        monkeypatch.setattr("rolora.engines.flower.site._FORGIVEN_S", 0.0)
        other = tmp_path / "other"
        other.mkdir()
        certificates.make_authority(other, "another")
        certificates.make_node_key(other / "stranger")
        certificates.make_node_key(other / "claimant")
        server = launch.ServerTls(
            authority / "ca.crt", authority / "server.crt", authority / "server.key"
        )
        site = launch.SiteTls(authority / "ca.crt", authority / "site0")
        with Cluster(tmp_path, server) as cluster:
            launch.register_node(cluster.home, authority / "site0.pub", 0)
            with pytest.raises(RunFailed, match="already in use"):
                launch.register_node(cluster.home, authority / "site0.pub", 1)
            launch.register_node(cluster.home, other / "claimant.pub", 1)
            first = cluster.start_node(0, echo, site)
            with cluster.run(1) as transport:
                claimant = cluster.start_node(
                    0, echo, launch.SiteTls(authority / "ca.crt", other / "claimant")
                )
                wait_for_text(claimant, "serves client 0")
                assert ask_all(transport, {1: [b"a"]})[1].reason == "absent"
                assert "registered as client-1 and speaks for 0" in caplog.text
                claimant.stop()
                assert ask_all(transport, {0: [b"a"]})[0].frames == [b"echo a"]
                power_cut(first)
                node = cluster.start_node(0, echo, site)
                wait_for_text(node, "serves client 0")
                assert ask_all(transport, {0: [b"a"]})[0].frames == [b"echo a"]

            stranger = launch.SiteTls(authority / "ca.crt", other / "stranger")
            impostor = launch.SiteTls(other / "ca.crt", authority / "site0")
            for tls, words in [(stranger, "does not know this site"), (impostor, "authority")]:
                with pytest.raises(RunFailed, match=words):
                    serve_site(echo, lambda path, tls=tls: uninvited(cluster, path, tls))


def uninvited(cluster, worker, tls):
    """Start a node that is not let in."""
    command = launch.node_command(cluster.address, 9, worker, tls, cluster.directory / "no.id")
    return launch.Service(command, cluster.directory / "node9.log", cluster.directory / "node9")


def test_who_has_read_all_that_has_content_may_hang_up():
    """A request may end in an empty frame, of which the worker reads nothing: it may have answered
    and closed before the frame's turn comes.
    """
    ours, theirs = socket.socketpair()

    class HangsUp:
        def sendall(self, data):
            ours.sendall(data)
            theirs.close()

    with ours:
        _send(HangsUp(), 0, [b""])
