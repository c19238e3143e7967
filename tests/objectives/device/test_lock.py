import contextlib
import os
import signal
import subprocess
import sys

import pytest

from objectives.device.cpu import CpuNode
from objectives.device.lock import hold_device, holder, lock_path
from objectives.errors import DeviceBusyError, UsageError
from tests.paths import ROOT

HOLDS = """
import subprocess, sys
from pathlib import Path
from objectives.device.cpu import CpuNode
from objectives.device.lock import hold_device
with hold_device(CpuNode(), folder=Path(sys.argv[1]), study="dream"):
    server = subprocess.Popen(["sleep", "600"], close_fds=False, stdout=subprocess.DEVNULL)
    print(server.pid, flush=True)
    input()
server.kill()
"""


@pytest.fixture
def device():
    return CpuNode()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the device, and has a child; (process, child's id)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server = int(process.stdout.readline())
    yield process, server
    process.kill()
    process.communicate()
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, signal.SIGKILL)


def test_a_second_study_is_told_who_holds_the_device(device, other, tmp_path):
    process, _ = other
    holding = rf"held by process {process.pid} \(study dream, since"
    with pytest.raises(DeviceBusyError, match=holding), hold_device(device, folder=tmp_path):
        pass


def is_ours(device, folder):
    """Whether whoever asks now is refused, with this process named as the holder."""
    with pytest.raises(DeviceBusyError) as refused, hold_device(device, folder=folder):
        pytest.fail("nobody holds it")
    return f"process {os.getpid()}" in str(refused.value)


def test_a_holder_that_ends_lets_the_next_one_in(device, other, tmp_path):
    process, _ = other
    process.communicate("\n")
    with hold_device(device, folder=tmp_path):
        assert is_ours(device, tmp_path)


def test_a_holder_that_is_killed_holds_no_more_though_its_server_lives_on(device, other, tmp_path):
    process, server = other
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(server, 0)
    with hold_device(device, folder=tmp_path):
        assert is_ours(device, tmp_path)


def test_who_waits_gets_the_device_when_it_is_free(device, other, tmp_path):
    process, _ = other
    process.stdin.write("\n")
    process.stdin.flush()
    with hold_device(device, folder=tmp_path, wait_s=60):
        assert is_ours(device, tmp_path)


def test_the_same_process_cannot_hold_a_device_twice(device, tmp_path):
    with (
        hold_device(device, folder=tmp_path),
        pytest.raises(DeviceBusyError, match=f"process {os.getpid()}"),
        hold_device(device, folder=tmp_path),
    ):
        pass


def test_an_error_in_the_block_lets_go(device, tmp_path):
    with pytest.raises(RuntimeError), hold_device(device, folder=tmp_path):
        raise RuntimeError
    with hold_device(device, folder=tmp_path):
        pass


def test_the_file_is_named_by_the_device_and_open_to_every_user(device, tmp_path):
    umask = os.umask(0o077)
    try:
        with hold_device(device, folder=tmp_path / "locks") as path:
            assert path.name == f"{device.uuid}.lock"
            assert path.stat().st_mode & 0o777 == 0o666
            assert path.parent.stat().st_mode & 0o7777 == 0o1777
    finally:
        os.umask(umask)


def test_a_released_lock_names_nobody_and_stays_where_it_is(device, tmp_path):
    with hold_device(device, folder=tmp_path) as path:
        assert f"process {os.getpid()}" in holder(path)
    assert path.exists()
    assert holder(path) == "another process"


def test_a_holder_on_another_host_is_named_with_it(tmp_path):
    path = tmp_path / "x.lock"
    path.write_text('{"pid": 7, "study": "", "host": "box", "since": "2025-11-21"}')
    assert holder(path) == "process 7 (on box, since 2025-11-21)"


def test_a_link_in_the_files_place_is_not_followed(device, tmp_path):
    (tmp_path / "victim").write_text("precious")
    lock_path(device.uuid, tmp_path).symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="lock file"), hold_device(device, folder=tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_a_line_not_a_traceback(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="lock folder"):
        lock_path("GPU-1", tmp_path / "file" / "locks")


def test_odd_characters_in_a_uuid_stay_inside_the_folder(tmp_path):
    assert lock_path("../GPU 1", tmp_path) == tmp_path / ".._GPU_1.lock"
