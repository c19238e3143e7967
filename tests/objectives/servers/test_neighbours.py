import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from objectives.errors import NeighbourError, UsageError
from objectives.servers import process_table
from objectives.servers.neighbours import Command, Hold, Running, present, unseen
from objectives.servers.ports import Port
from objectives.telemetry.processes import pss_bytes
from tests.paths import ROOT

FAKE_WHISPER = ROOT / "tests/fakes/fake_whisper.py"
PID_NAMESPACE = "/proc/self/ns/pid"
MIB = 1 << 20


def is_alive(pid):
    row = process_table.read_process(pid)
    return row is not None and row.is_alive


@pytest.fixture
def there(tmp_path):
    """A function: these neighbours, present on the CPU unless told otherwise."""

    def start(*neighbours, kind="cpu", **more):
        return present(
            neighbours,
            device_env={"CUDA_VISIBLE_DEVICES": ""},
            device_kind=kind,
            folder=tmp_path,
            **more,
        )

    return start


@contextmanager
def somebody():
    """A process of somebody else's: its command line holds a word that nobody else's does."""
    word = f"neighbour-{uuid.uuid4().hex}"
    launcher = (  # a process below this one would count as ours
        "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL,"
        "stderr=subprocess.DEVNULL,"
        "start_new_session=True).pid)"
    )
    argv = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)", word)
    done = subprocess.run(
        (sys.executable, "-c", launcher, *argv), capture_output=True, text=True, check=True
    )
    pid = int(done.stdout)
    wait_until(lambda: word.encode() in process_table.read_file(f"/proc/{pid}/cmdline"))
    try:
        yield word, pid
    finally:
        leave(pid)


def test_a_running_neighbour_is_found_by_its_command_line(there):
    with somebody() as (word, pid), there(Running(name="ollama", match=word)) as others:
        assert others.pids["ollama"]() == [pid]
        assert others.doubts == []
        others.check()


@pytest.fixture(autouse=True)
def namespace(monkeypatch):
    """The machine's own namespace of process ids, wherever the tests run; settable."""
    said = {"pid": "pid:[4026531836]"}
    real = os.readlink
    monkeypatch.setattr(
        os,
        "readlink",
        lambda path, **kw: said["pid"] if str(path) == PID_NAMESPACE else real(path, **kw),
    )
    return said


class TestInAContainerWithProcessIdsOfItsOwn:
    @pytest.fixture(autouse=True)
    def container(self, namespace):
        namespace["pid"] = "pid:[4026532448]"

    def test_a_neighbour_that_nobody_can_see_is_left_out_with_a_doubt(self, there):
        absent = Running(name="ollama", match="no-process-has-this-on-its-line", min_bytes=1 << 40)
        with there(absent) as others:
            others.check()
            assert others.pids["ollama"]() == []
            assert others.doubts == [unseen(absent)]
        assert unseen(absent).startswith("neighbour ollama is left out: ")
        assert "--pid=host" in unseen(absent)

    def test_one_that_can_be_seen_counts_as_anywhere(self, there):
        with somebody() as (word, pid):
            neighbour = Running(name="ollama", match=word)
            assert unseen(neighbour) is None
            with there(neighbour) as others:
                leave(pid)
                with pytest.raises(NeighbourError, match="ollama is not running"):
                    others.check()

    def test_those_that_we_start_are_never_left_out(self):
        assert unseen(Hold(name="it", bytes_=1)) is None


def test_on_the_machine_itself_nobody_is_left_out(namespace):
    assert unseen(Running(name="ollama", match="no-process-has-this-on-its-line")) is None


def test_a_neighbour_that_must_run_and_does_not_is_named(there):
    absent = Running(name="ollama", match="no-process-has-this-on-its-line")
    with pytest.raises(NeighbourError, match="ollama is not running"), there(absent):
        pass


def test_the_pattern_on_the_studys_own_command_line_is_no_neighbour():
    code = (
        "import sys; sys.path.insert(0, '.'); from objectives.servers.neighbours import matching;"
        "print(matching('pattern-of-its-own-line'))"
    )
    done = subprocess.run(
        ("/bin/sh", "-c", '"$@"; true', "pattern-of-its-own-line", sys.executable, "-c", code),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n"


def test_a_neighbour_that_leaves_during_the_trial_is_noticed(there):
    with somebody() as (word, pid), there(Running(name="ollama", match=word)) as others:
        others.check()
        leave(pid)
        with pytest.raises(NeighbourError, match="ollama is not running"):
            others.check()


def leave(pid):
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def wait_until(holds, at_most_s=20.0):
    until = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_a_pattern_that_is_none_is_refused_at_the_door():
    with pytest.raises(UsageError, match="neighbour ollama: match '\\(' is no regular expression"):
        Running(name="ollama", match="(")


def test_on_a_cpu_a_running_neighbour_must_really_hold_what_was_promised(there):
    with somebody() as (word, pid):
        with there(Running(name="ollama", match=word, min_bytes=pss_bytes(pid) // 2)) as others:
            assert others.doubts == []
        greedy = Running(name="ollama", match=word, min_bytes=1 << 40)
        with pytest.raises(NeighbourError, match=r"ollama holds .* of at least"), there(greedy):
            pass


def test_on_a_gpu_the_drivers_word_counts(there):
    with somebody() as (word, pid):
        wanted = Running(name="ollama", match=word, min_bytes=900)
        with there(wanted, kind="cuda", by_pid=lambda: {pid: 1000, 1: 5}):
            pass
        with (
            pytest.raises(NeighbourError, match="holds 10 bytes"),
            there(wanted, kind="cuda", by_pid=lambda: {pid: 10}),
        ):
            pass


@pytest.mark.parametrize("told", [None, dict, lambda: {1: 1000}])
def test_where_the_driver_tells_nothing_about_it_that_is_a_doubt_and_no_verdict(there, told):
    with somebody() as (word, _):
        wanted = Running(name="ollama", match=word, min_bytes=900)
        with there(wanted, kind="cuda", by_pid=told) as others:
            assert others.doubts == [
                "what neighbour ollama holds is not known: the driver does not tell"
            ]


def test_a_neighbour_that_we_start_is_up_inside_the_block_and_gone_after_it(there):
    with Port() as port:
        argv = (sys.executable, str(FAKE_WHISPER), "--model", "tiny", "--port", str(port.number))
        embeddings = Command(
            name="embeddings",
            argv=argv,
            env={"FAKE_START_S": "0.3"},
            ready_s=20,
            url=f"{port.url}/health",
        )
        with there(embeddings) as others:
            (pid,) = others.pids["embeddings"]()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert {b"CUDA_VISIBLE_DEVICES=", b"FAKE_START_S=0.3"} <= set(environment)
            others.check()
        assert not is_alive(pid)


def test_a_neighbour_that_does_not_come_up_is_named_with_its_last_line(there):
    broken = Command(name="embeddings", argv=("/bin/sh", "-c", "echo no model; exit 3"), url="x:")
    with (
        pytest.raises(
            NeighbourError, match=r"embeddings: .*exited with 3; its last line: no model"
        ),
        there(broken),
    ):
        pass


def test_a_neighbour_that_is_not_there_to_be_started_is_named(there):
    missing = Command(name="embeddings", argv=("/no/such/program",))
    with pytest.raises(NeighbourError, match=r"embeddings.*cannot be started"), there(missing):
        pass


def test_a_started_neighbour_that_dies_during_the_trial_is_noticed(there):
    sleeper = Command(name="embeddings", argv=("/bin/sleep", "60"))
    with there(sleeper) as others:
        (pid,) = others.pids["embeddings"]()
        leave(pid)
        with pytest.raises(NeighbourError, match="embeddings was ended by signal 9"):
            until = time.monotonic() + 10
            while time.monotonic() < until:
                others.check()


def test_a_held_place_really_holds_its_bytes_and_gives_them_back(there):
    with there(Hold(name="desktop", bytes_=64 * MIB)) as others:
        (pid,) = others.pids["desktop"]()
        assert pss_bytes(pid) >= 64 * MIB
    assert not is_alive(pid)


def test_more_than_there_is_cannot_be_held(there):
    with pytest.raises(NeighbourError, match=r"desktop: .*exited with 1; .*GiB wanted"):
        there(Hold(name="desktop", bytes_=1 << 50)).__enter__()


def test_neighbours_start_in_order_and_all_are_gone_when_a_later_one_fails(there, tmp_path):
    first = Hold(name="a place/with a slash", bytes_=MIB)
    with (
        pytest.raises(NeighbourError, match="second"),
        there(first, Command(name="second", argv=("/no",))),
    ):
        pass
    (log,) = tmp_path.glob("neighbour-0-*.log")
    assert log.read_text().startswith("holding ")
    assert not [token for token in process_table.marks().values() if is_ours(token)]


def is_ours(token):
    return token.startswith(f"{os.getpid()}.")


def test_no_neighbours_are_present_at_once(there):
    with there() as others:
        others.check()
    assert others.pids == {}


def test_each_neighbour_that_we_start_comes_up_alone_in_a_block_of_its_own(there):
    events = []

    @contextmanager
    def around(name):
        events.append(f"{name} starts")
        yield
        events.append(f"{name} is up")

    hold = [Hold(name=name, bytes_=MIB) for name in ("first", "second")]
    with somebody() as (word, _):
        running = Running(name="ollama", match=word)
        with there(hold[0], running, hold[1], around=around):
            assert events == ["first starts", "first is up", "second starts", "second is up"]
