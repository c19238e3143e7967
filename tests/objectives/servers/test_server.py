import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from objectives.errors import EngineError, NotReadyError, ServerDiedError
from objectives.servers import process_table
from objectives.servers.http_get import http_json, http_ready
from objectives.servers.ports import Port
from objectives.servers.process_table import MARK
from objectives.servers.server import Launch, end_leftovers, serve
from tests.paths import ROOT

FAKE_VLLM = ROOT / "tests" / "fakes" / "fake_vllm.py"
CHILDREN = "outlives,session,double_fork,cleared"


def is_alive(pid):
    row = process_table.read_process(pid)
    return row is not None and row.is_alive


def marked_by(study_pid):
    marks = process_table.marks()
    return [pid for pid, token in marks.items() if token.startswith(f"{study_pid}.")]


def wait_until(holds, at_most_s=20.0):
    until = time.monotonic() + at_most_s
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def script(tmp_path, code, **more):
    """A launch of a few lines of Python."""
    argv = (sys.executable, "-I", "-S", "-c", code)
    return Launch(name="script", argv=argv, env={}, log=tmp_path / "script.log", **more)


def says(launch, word):
    return lambda: word in launch.log.read_text()


@pytest.fixture
def fake_vllm(tmp_path):
    """A function: the fake vLLM with these knobs, served."""

    @contextmanager
    def served(ready_s=20.0, stop_s=20.0, alive_of_others=None, **knobs):
        with Port() as port:
            launch = Launch(
                name="vllm",
                argv=(sys.executable, str(FAKE_VLLM), "--port", str(port.number)),
                env={f"FAKE_{name}": str(value) for name, value in knobs.items()},
                log=tmp_path / "vllm.log",
            )
            with serve(
                launch,
                url=port.url,
                ready=http_ready(port.url),
                ready_s=ready_s,
                stop_s=stop_s,
                alive_of_others=alive_of_others,
            ) as server:
                yield server

    return served


def test_a_server_answers_inside_the_block_and_is_gone_after_it(fake_vllm):
    with fake_vllm() as server:
        assert http_json(f"{server.url}/version") == {"version": "0.11.0"}
        assert server.members() == [server.pid]
        server.check()
        assert server.ended is None
    assert not is_alive(server.pid)
    assert server.members() == []


def test_a_server_that_obeys_is_not_killed_even_if_that_takes_it_a_moment(fake_vllm):
    with fake_vllm(STOP_S=0.4) as server:
        pass
    assert server.ended == 0


def test_leaving_the_block_leaves_no_process_not_of_a_deaf_one_nor_of_its_children(fake_vllm):
    with fake_vllm(stop_s=0.2, DEAF=1, CHILD=CHILDREN) as server:
        members = server.members()
        assert len(members) == 5
    assert server.ended == -signal.SIGKILL
    assert not any(is_alive(pid) for pid in members)
    assert server.members() == []


def test_children_that_outlive_an_obedient_server_are_ended_too(fake_vllm):
    with fake_vllm(CHILD=CHILDREN) as server:
        members = server.members()
    assert server.ended == 0
    assert not any(is_alive(pid) for pid in members)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_or_an_interrupt_inside_the_block_leaves_no_process(fake_vllm, error):
    with pytest.raises(error), fake_vllm(CHILD="session", CHILD_OBEYS=1) as server:
        members = server.members()
        raise error
    assert len(members) == 2
    assert not any(is_alive(pid) for pid in members)


def test_a_slow_start_is_waited_for(fake_vllm):
    with fake_vllm(START_S=0.8) as server:
        assert http_ready(server.url)()


@pytest.mark.parametrize("code", [3, -signal.SIGKILL])
def test_death_while_waiting_is_reported_with_its_code_and_its_log(fake_vllm, code):
    with pytest.raises(ServerDiedError) as died, fake_vllm(ready_s=60, CRASH_AT_START=code):
        pass
    assert died.value.returncode == code
    assert "vLLM API server version" in died.value.log.read_text()


def test_what_never_gets_ready_is_given_up_and_ended(fake_vllm):
    with (
        pytest.raises(NotReadyError) as late,
        fake_vllm(ready_s=0.5, HANG=1, CHILD="session", CHILD_OBEYS=1),
    ):
        pass
    assert late.value.log.exists()
    assert marked_by(os.getpid()) == []


def test_a_program_that_is_not_there_is_named(tmp_path):
    launch = Launch(name="vllm", argv=("/no/such/python",), env={}, log=tmp_path / "log")
    with (
        pytest.raises(EngineError, match=r"vllm cannot be started: No such file.*/no/such/python"),
        serve(launch, url=None, ready=lambda: True, ready_s=5),
    ):
        pass


def test_a_program_is_looked_up_in_the_path_of_its_own_environment(tmp_path):
    program = tmp_path / "bin" / "hello-server"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho hello\nexec sleep 60\n")
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.defpath}"}
    launch = Launch(name="hello", argv=("hello-server",), env=env, log=tmp_path / "log")
    with serve(launch, url=None, ready=says(launch, "hello"), ready_s=10) as server:
        assert len(server.members()) == 1


def test_the_death_of_another_server_ends_the_waiting(fake_vllm):
    def dead():
        raise ServerDiedError("whisper", log=None, returncode=1)

    with pytest.raises(ServerDiedError, match="whisper"), fake_vllm(HANG=1, alive_of_others=dead):
        pass


def test_a_server_that_is_killed_is_reported_as_killed_and_its_orphans_go_too(fake_vllm):
    with fake_vllm(CHILD="outlives,double_fork", stop_s=0.2) as server:
        members = server.members()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.ended is not None)
        with pytest.raises(ServerDiedError) as died:
            server.check()
        assert died.value.returncode == -signal.SIGKILL
        assert len([pid for pid in members if is_alive(pid)]) == 2
    assert not any(is_alive(pid) for pid in members)


def test_its_environment_is_the_launchs_own_the_mark_and_a_folder_of_its_own(tmp_path):
    code = "import os, time; print(sorted(os.environ.items()), flush=True); time.sleep(60)"
    launch = script(tmp_path, code)
    with serve(launch, url=None, ready=says(launch, "]"), ready_s=10):
        seen = dict(eval(launch.log.read_text()))
        assert seen.keys() - {"LC_CTYPE"} == {MARK, "TMPDIR"}  # LC_CTYPE: Python's own doing
        assert Path(seen["TMPDIR"]).is_dir()
    assert not Path(seen["TMPDIR"]).exists()


def test_a_folder_for_temporary_files_that_the_launch_names_is_left_alone(tmp_path):
    code = "import os, time; print(os.environ['TMPDIR'] + '.', flush=True); time.sleep(60)"
    launch = Launch(
        name="script",
        argv=(sys.executable, "-c", code),
        env={"TMPDIR": str(tmp_path)},
        log=tmp_path / "log",
    )
    with serve(launch, url=None, ready=says(launch, "."), ready_s=10):
        assert launch.log.read_text() == f"{tmp_path}.\n"
    assert tmp_path.exists()


def test_the_log_takes_both_outputs_and_nothing_of_an_earlier_start(tmp_path):
    launch = script(
        tmp_path,
        "import os, time\nos.write(1, b'one ')\nos.write(2, b'two.')\ntime.sleep(60)",
        cwd=tmp_path,
    )
    launch.log.write_text("of an earlier start")
    with serve(launch, url=None, ready=says(launch, "."), ready_s=10) as server:
        assert Path(f"/proc/{server.pid}/cwd").readlink() == tmp_path
        assert Path(f"/proc/{server.pid}/fd/0").readlink() == Path(os.devnull)
    assert launch.log.read_text() == "one two."


def test_much_output_does_not_stall_a_server(tmp_path):
    launch = script(
        tmp_path, "import os, time\nprint('x' * 2000000 + '.', flush=True)\nwhile 1: time.sleep(9)"
    )
    with serve(launch, url=None, ready=says(launch, "."), ready_s=20):
        assert launch.log.stat().st_size > 2_000_000


def test_the_kernel_would_rather_kill_a_server_than_the_study(fake_vllm):
    own = int(Path("/proc/self/oom_score_adj").read_text())
    with fake_vllm() as server:
        assert int(Path(f"/proc/{server.pid}/oom_score_adj").read_text()) == max(own, 500)


def test_servers_side_by_side_do_not_disturb_each_other(tmp_path):
    one = script(
        tmp_path, "print('up', flush=True); input() if 0 else __import__('time').sleep(60)"
    )
    with serve(one, url=None, ready=says(one, "up"), ready_s=10) as first:
        other = Launch(name="other", argv=one.argv, env={}, log=tmp_path / "other.log")
        with serve(other, url=None, ready=says(other, "up"), ready_s=10) as second:
            assert set(first.members()).isdisjoint(second.members())
        assert not is_alive(second.pid)
        first.check()


def test_a_server_whose_guard_is_killed_counts_as_gone_and_is_ended(fake_vllm):
    with fake_vllm(DEAF=1, CHILD="session", stop_s=0.2) as server:
        members = server.members()
        os.kill(process_table.read_process(server.pid).parent, signal.SIGKILL)
        with pytest.raises(ServerDiedError, match="is gone"):
            wait_until(server.check)
        assert all(is_alive(pid) for pid in members)
    assert not any(is_alive(pid) for pid in members)


def segments():
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


def test_shared_memory_that_a_killed_server_leaves_is_removed_and_only_that(fake_vllm):
    mine = shared_memory.SharedMemory(create=True, size=4096)
    try:
        with fake_vllm(DEAF=1, SHARED_MEMORY_BYTES=1 << 20, stop_s=0.1) as server:
            during = shared_memory.SharedMemory(create=True, size=4096)
            (left,) = mapped_by(server.pid)
            os.kill(tracker_of(server), signal.SIGKILL)  # the one who would clean up
        assert left not in segments()
        assert {mine.name, during.name} <= segments()
    finally:
        for segment in (mine, during):
            segment.close()
            segment.unlink()


def mapped_by(pid):
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.rpartition("/")[2] for line in lines if "/dev/shm/psm_" in line}


def tracker_of(server):
    (tracker,) = set(server.members()) - {server.pid}
    return tracker


STUDY = """
import json, sys, time
sys.path.insert(0, {root!r})
from objectives.servers import Launch, Port, http_ready, serve
from pathlib import Path

with Port() as port:
    argv = (sys.executable, {fake!r}, "--port", str(port.number))
    launch = Launch(name="vllm", argv=argv, env={knobs!r}, log=Path({log!r}))
    print("starting", flush=True)
    with serve(launch, url=port.url, ready=http_ready(port.url), ready_s=60, stop_s=60) as server:
        print(json.dumps(server.members()), flush=True)
        time.sleep(600)
"""


@pytest.fixture
def study(tmp_path):
    """A function: another process that serves the fake vLLM, in a session of its own."""
    started = []

    def start(**knobs):
        told = {f"FAKE_{name}": str(value) for name, value in knobs.items()}
        log = str(tmp_path / "vllm.log")
        code = STUDY.format(root=str(ROOT), fake=str(FAKE_VLLM), knobs=told, log=log)
        process = subprocess.Popen(
            (sys.executable, "-c", code),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "starting\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def members_of(study):
    return json.loads(study.stdout.readline())


def test_kill_minus_9_of_the_study_leaves_nothing(study):
    process = study(DEAF=1, CHILD=CHILDREN)
    members = members_of(process)
    assert len(members) == 5
    process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in members))


def test_kill_minus_9_of_a_study_that_is_still_starting_its_server_leaves_nothing(study):
    process = study(HANG=1, CHILD="session")
    wait_until(lambda: len(marked_by(process.pid)) == 2)
    members = marked_by(process.pid)
    process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in members))


def test_ctrl_c_on_the_terminal_reaches_only_the_study_which_ends_its_server(study):
    process = study()
    members = members_of(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert not any(is_alive(pid) for pid in members)


def test_a_second_ctrl_c_does_not_wait_for_a_deaf_server_and_still_leaves_nothing(study):
    process = study(DEAF=1)
    members = members_of(process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert all(is_alive(pid) for pid in members)  # it has a minute
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert not any(is_alive(pid) for pid in members)


def test_what_a_study_left_that_was_killed_with_its_guard_is_found_and_ended(study):
    process = study(DEAF=1, CHILD="session")
    members = members_of(process)
    guard = process_table.read_process(members[0]).parent
    token = process_table.marks()[members[0]]
    process.kill()
    os.kill(guard, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_alive(guard))
    assert process_table.leftovers() >= set(members)
    folder = Path(tempfile.gettempdir(), f"gas-{token.rpartition('.')[2]}")
    assert folder.is_dir()
    assert set(end_leftovers()) >= set(members)
    wait_until(lambda: not any(is_alive(pid) for pid in members))
    assert not folder.exists()
    assert not process_table.leftovers() & set(members)


def test_the_servers_of_a_living_study_are_no_leftovers(study):
    members = members_of(study())
    assert not process_table.leftovers() & set(members)
