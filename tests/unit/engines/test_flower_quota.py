"""A site that sends too much, or in another's name: what of it the SuperLink takes."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import httpx
import pytest

pytest.importorskip("flwr")

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supernode.fleet_http_connection import http_request_response

from flower_cluster import Cluster
from rolora.engines.flower import payload
from rolora.engines.flower.launch import free_port
from rolora.engines.flower.quota import AT_ONCE, Answer, Asked, OverQuota, Quota
from rolora.engines.flower.serve import running_server
from rolora.engines.flower.settings import ServerConfig
from rolora.engines.flower.superlink import Gate

MB = 2**20


def answer(root="r", to="m", objects=("r", "a", "b"), run=1):
    return Answer(run, to, root, frozenset(objects))


@pytest.fixture
def quota():
    """Node 7 has announced an answer of which 100 bytes are taken."""
    quota = Quota()
    quota.announce(7, answer(), Asked(7, 100))
    return quota


class TestQuota:
    def test_an_answer_is_taken_up_to_its_size(self, quota):
        quota.push(7, "r", 10)
        quota.push(7, "a", 80)
        quota.push(7, "a", 80)  # again, as its receipt was lost
        assert not quota.was_refused("a")
        with pytest.raises(OverQuota, match="more than the 100 bytes") as over:
            quota.push(7, "b", 11)
        assert over.value.root == "r"
        assert quota.was_refused("b")
        with pytest.raises(OverQuota, match="no announced answer"):
            quota.push(7, "b", 1)
        quota.taken("r")
        assert not quota.was_refused("b")

    @pytest.mark.parametrize(
        ("late", "asked"),
        [
            (answer("s", "n"), None),
            (answer("s", "n"), Asked(8, 100)),
            (answer("s", "m"), Asked(7, 100)),
            (answer("s", "n", map(str, range(1000))), Asked(7, 100)),
        ],
        ids=["nobody asked", "another was asked", "answered already", "too many pieces"],
    )
    def test_what_was_not_asked_is_not_taken(self, quota, late, asked):
        with pytest.raises(OverQuota):
            quota.announce(7, late, asked)
        with pytest.raises(OverQuota):
            quota.push(7, "s", 1)

    def test_a_piece_of_another_sites_answer_is_not_taken(self, quota):
        with pytest.raises(OverQuota):
            quota.push(8, "a", 1)

    def test_few_answers_are_kept_at_a_time(self, quota):
        """The oldest makes room, and those of a run that is over."""
        dropped = []
        for i in range(AT_ONCE):
            dropped += quota.announce(7, answer(f"r{i}", f"m{i}", [f"r{i}"]), Asked(7, 100))
        assert dropped == ["r"]
        assert quota.announce(7, answer("x", "y", ["x"], run=2), Asked(7, 100)) == []
        with pytest.raises(OverQuota):
            quota.push(7, "r1", 1)
        quota.push(7, "x", 1)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"100")], 200),
        ([(b"content-length", str(9 * MB).encode())], 413),
        ([(b"content-length", b"9" * 5000)], 413),
        ([(b"transfer-encoding", b"chunked")], 413),
    ],
)
def test_no_request_of_a_node_is_longer_than_it_need_be(headers, status):
    """Before anybody knows whose it is, since Flower reads it whole."""
    statuses = []

    async def superlink(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(event):
        statuses.extend([event["status"]] if "status" in event else [])

    scope = {"type": "http", "path": "/v1/fleet/push-object", "headers": headers}
    asyncio.run(Gate(superlink)(scope, None, send))
    assert statuses == [status]


def stored(cluster):
    """Bytes of the SuperLink's database."""
    return sum(path.stat().st_size for path in cluster.directory.glob("state.db*"))


@pytest.mark.slow
class TestSuperLink:
    @pytest.fixture(scope="class")
    def cluster(self, tmp_path_factory):
        with Cluster(tmp_path_factory.mktemp("cluster"), database=True) as cluster:
            yield cluster

    def test_too_much_is_refused_before_it_is_stored(self, cluster):
        """For a greeting, or for an answer; the site is named, and answers the next time."""
        greedy = {b"hello": 40 * MB, b"much": 40 * MB, b"little": 0}
        most = [stored(cluster)]

        def handle(frames):
            threading.Thread(target=watch, args=(most, cluster), daemon=True).start()
            return [frames[0], os.urandom(greedy[bytes(frames[0])])]

        cluster.start_node(0, handle)
        with cluster.run(0, max_bytes=2 * MB) as transport:
            end = time.monotonic() + 30
            while not transport.refusals and time.monotonic() < end:
                transport.wait_for(1, 0.2)
            assert list(transport.refusals.values()) == ["more than 262144 bytes"]
            greedy[b"hello"] = 0
            transport.wait_for(1, 30)
            [large] = transport.send_and_receive({0: [b"much"]}, 60)
            assert (large.reason, large.detail) == ("too_large", f"more than {2 * MB} bytes")
            [small] = transport.send_and_receive({0: [b"little"]}, 60)
            assert small.frames == [b"little", b""]
        assert max(most) - most[0] < 12 * MB  # a piece of 4 MB and its copy in the journal
        assert "the server does not take the answer" in cluster.nodes[0].output()
        cluster.nodes[0].stop()

    def test_a_site_cannot_send_in_the_servers_name(self, cluster):
        """Flower would hand the message to the other site as if the run had sent it."""
        heard = []
        cluster.start_node(1, lambda frames: heard.append(bytes(frames[0])) or list(frames))
        with cluster.run(1) as transport:
            victim = transport._nodes[1].id
            with http_request_response(cluster.address, insecure=True) as (_, _, send, *_):
                forged = Message(payload.pack([b"forged"]), victim, "train", group_id="1000")
                forged.metadata.__dict__["_message_id"] = forged.object_id
                with pytest.raises(httpx.HTTPStatusError, match="413"):
                    send(forged, get_object_tree(forged), 0.0)
            [reply] = transport.send_and_receive({1: [b"honest"]}, 60)
            assert reply.frames == [b"honest"]
        assert heard == [b"hello", b"honest"]

    def test_the_database_is_its_owners_alone(self, tmp_path):
        state = tmp_path / "state"
        state.mkdir(mode=0o755)
        (state / "superlink.db").touch(mode=0o644)
        server = ServerConfig(address=f"127.0.0.1:{free_port()}", state=state)
        with running_server(server, False, print):
            modes = {path.name: path.stat().st_mode & 0o777 for path in state.glob("*.db*")}
            assert modes
            assert set(modes.values()) == {0o600}, modes
            assert state.stat().st_mode & 0o777 == 0o700


def watch(most, cluster):
    """Note how large the database grows, for some seconds."""
    end = time.monotonic() + 4
    while time.monotonic() < end:
        most.append(stored(cluster))
        time.sleep(0.02)
