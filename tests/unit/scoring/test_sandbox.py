"""The box for generated code: what it stops, and that a correct program gets through."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rolora.core.errors import BadInput
from rolora.scoring import sandbox as module
from rolora.scoring.sandbox import ISOLATED, UNCONFINED, Limits, sandbox

CORRECT = (
    "def add(a, b):\n    return a + b\n\nassert add(2, 3) == 5\nopen('/tmp/x', 'w').write('y')"
)
BAD = {
    "wrong": "assert 1 + 1 == 3",
    "no_program": "def add(a, b) return",
    "leaves": "import sys; sys.exit(0)",
    "leaves_at_once": "import os; os._exit(0)",
    "fork_bomb": "import os\nwhile True: os.fork()",
    "memory": "held = bytearray(10 * 2**30)",
    "big_file": "f = open('/tmp/f', 'wb')\nwhile True: f.write(bytes(2**20))",
    "many_files": "for i in range(10**6): open(f'/tmp/{i}', 'w').close()",
    "python_itself": "import os; open(os.__file__, 'a')",
    "system": "open('/usr/rolora', 'w')",
    "passwords": "open('/etc/passwd').read()",
    "kills_all": "import os; os.kill(-1, 9); raise SystemExit",
    "root_again": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise OSError",
    "mounts": "import ctypes; assert not ctypes.CDLL(None).mount(b'', b'/tmp', b'tmpfs', 0, 0)",
}
SHORT = Limits(seconds=2)


@pytest.fixture(scope="module")
def box():
    try:
        with sandbox() as made:
            yield made
    except BadInput as error:  # a machine without namespaces; the refusal is tested below
        pytest.skip(str(error))


@pytest.fixture
def hasty(box):
    """The same box with less time."""
    return module.Sandbox(box.room, SHORT, box.isolation)


def test_a_correct_program_passes(box):
    assert box.isolation == ISOLATED
    assert box.run(CORRECT) == (True, "")
    assert box.passing([CORRECT, BAD["wrong"], CORRECT]) == [True, False, True]


@pytest.mark.parametrize("name", BAD)
def test_it_is_stopped(box, name):
    assert not box.passes(BAD[name])


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"],
    ids=["loop", "stubborn_fork_bomb"],
)
def test_what_never_ends_is_ended_with_all_that_it_started(hasty, program):
    began = time.monotonic()
    assert not hasty.passes(f"{program}\n# {module.__name__}")
    assert time.monotonic() - began < SHORT.seconds + 3
    processes = subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout
    assert str(hasty.room) not in processes


def test_nothing_is_written_outside(box, tmp_path):
    tmp_path.chmod(0o777)
    target = tmp_path / "written"
    assert not box.passes(f"open({str(target)!r}, 'w').write('out')")
    assert not target.exists()
    assert not any((box.room / "root").iterdir())


def test_the_home_directory_is_not_there(box):
    home = str(Path.home())
    assert not box.passes(f"import os\nassert os.listdir({home!r})")
    secret = next((p for p in Path.home().iterdir() if p.is_file()), None)
    if secret is not None:
        assert not box.passes(f"open({str(secret)!r}).read()")


def test_there_is_no_network(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
        assert not box.passes(program)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_it_sees_no_variable_of_ours(box, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of ours")
    assert box.passes("import os; assert 'A_SECRET' not in os.environ")


def test_a_box_that_leaks_is_refused_unless_told(monkeypatch):
    fewer = tuple(name for name in module.NAMESPACES if name != "--net")
    monkeypatch.setattr(module, "NAMESPACES", fewer)
    with pytest.raises(BadInput, match=r"cannot be isolated.*--unconfined"), sandbox():
        pass
    with sandbox(SHORT, unconfined=True) as box:
        assert box.isolation == UNCONFINED
        assert box.passes("assert 1 + 1 == 2; open('here', 'w').close()")
        assert not box.passes(BAD["memory"])
        assert not box.passes(BAD["leaves_at_once"])
        assert not box.passes("import time; time.sleep(60)")
        room = box.room
        assert sorted(os.listdir(room)) == ["root", "seen"]
    assert not room.exists()


def test_a_machine_without_the_tools_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_environment", lambda _: {"PATH": "/nowhere"})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match="cannot be isolated"), sandbox():
        pass
    assert sys.executable
