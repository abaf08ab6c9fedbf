"""The server: on loopback alone, on a free port, until it is told to end."""

import os
import re
import signal
import socket
import sys
import threading
import urllib.request

import pytest

from made_up import make_run
from rolora.core.errors import BadInput
from rolora.watch import serve
from shell import rolora


@pytest.fixture
def taken():
    """A port that another program has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_it_listens_on_loopback_and_nowhere_else(monkeypatch, taken):
    monkeypatch.setattr(serve, "PORT", taken)
    said = []
    sockets = serve.first_free(said.append)
    port = sockets[0].getsockname()[1]
    assert [s.getsockname()[0] for s in sockets] in (["127.0.0.1"], ["127.0.0.1", "::1"])
    assert said == [f"port {taken} is taken; {port} is free"]
    with pytest.raises(BadInput, match=f"--port {port}: .*name a free one"):
        serve.listen(port)
    for one in sockets:
        one.close()


def test_a_port_that_is_named_and_taken_is_refused(tmp_path, capsys, taken):
    assert rolora("watch", make_run(tmp_path / "run", done=1), "--port", taken) == 2
    assert f"--port {taken}" in capsys.readouterr().err


def test_without_the_extra_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert rolora("watch", make_run(tmp_path / "run", done=1)) == 2
    assert "pip install 'rolora[watch]'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_until_a_signal_ends_it(tmp_path, capfd, monkeypatch, number, code):
    run, found = make_run(tmp_path / "run", done=1), {}
    listen, files = serve.listen, sorted(run.iterdir())

    def listening(port):
        sockets = listen(port)
        found["port"] = sockets[0].getsockname()[1]
        threading.Thread(target=ask, daemon=True).start()  # the socket lets it wait
        return sockets

    def ask():
        try:
            with urllib.request.urlopen(f"http://localhost:{found['port']}/", timeout=60) as answer:
                found["page"] = answer.read().decode()
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(serve, "listen", listening)
    assert rolora("watch", run) == code
    said = capfd.readouterr().out
    assert re.search(rf"http://127\.0\.0\.1:{found['port']}/", said)
    assert said.endswith("stopped\n")
    assert "1 of 20 rounds so far" in found["page"]
    assert sorted(run.iterdir()) == files
