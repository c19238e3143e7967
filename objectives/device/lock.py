"""The device is the lock: one study at a time measures on it, whoever started it.

A lock of the operating system on a file that is named by the device's UUID, in a folder that all
users of the machine share. It is gone with the process that holds it, however that ends, and it is
not handed down to programs that the process starts. Files are never removed: two processes that
hold locks on two files of the same name would both believe to be alone.

`filelock` is not used here: it opens its file in a way that the kernel refuses, in a shared folder,
to all users but the one who made the file (`fs.protected_regular`), and it names no holder.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from objectives.device.state import Device
from objectives.errors import DeviceBusyError, UsageError

LOCK_FOLDER = Path("/tmp/gpu-allocation-study-locks")
"""Not `tempfile.gettempdir()`: users with a folder of their own would not see each other."""

FOLDER_VARIABLE = "GPU_ALLOCATION_STUDY_LOCKS"
"""Names another folder, for containers that share a device but not their temporary files."""

_ASK_AGAIN_S = 0.1
_RECORD_BYTES = 4096


@contextmanager
def hold_device(
    device: Device, *, folder: Path | None = None, wait_s: float = 0.0, study: str = ""
) -> Iterator[Path]:
    """Hold a device against every other study on this machine.

    Containers with temporary folders of their own do not see each other: give them a shared one.

    Args:
        device: What to hold.
        folder: Where the locks are; by default what `FOLDER_VARIABLE` names, or `LOCK_FOLDER`.
        wait_s: Seconds to wait for another holder to let go.
        study: Who holds it, for the message that others get.

    Yields:
        The lock file.

    Raises:
        DeviceBusyError: Another process holds it, or this one already does; names the holder.
        UsageError: The folder cannot be made or written.
    """
    path = lock_path(device.uuid, folder)
    deadline = time.monotonic() + wait_s
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise DeviceBusyError(f"{device.name} ({device.uuid}) is held by {holder(path)}")
        time.sleep(_ASK_AGAIN_S)
    try:
        _sign(descriptor, study)
        yield path
    finally:
        _write(descriptor, b"")
        os.close(descriptor)


def lock_path(uuid: str, folder: Path | None = None) -> Path:
    """The lock file of a device; its folder is made, for all users, if it is not there.

    Raises:
        UsageError: The folder cannot be made.
    """
    place = folder or Path(os.environ.get(FOLDER_VARIABLE) or LOCK_FOLDER)
    try:
        place.mkdir(parents=True)
        place.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"lock folder {place}: {error.strerror}") from error
    return place / (re.sub(r"[^\w.-]", "_", uuid) + ".lock")


def holder(path: Path) -> str:
    """Who holds the lock, in words: "process 4711 (study dream, since 2025-11-21T05:48:00+00:00)".

    "another process", where the file does not tell.
    """
    try:
        record = json.loads(path.read_text())
        who = f"process {record['pid']}"
        more = [f"study {record['study']}"] if record["study"] else []
        more += [f"on {record['host']}"] if record["host"] != platform.node() else []
        return f"{who} ({', '.join([*more, 'since ' + record['since']])})"
    except (OSError, ValueError, KeyError, TypeError):  # being written, or another user's secret
        return "another process"


def _try_lock(path: Path) -> int | None:
    """An open and locked descriptor; None if somebody else has the lock.

    Raises:
        UsageError: The file can be neither opened nor made.
    """
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_still(descriptor, path):
            return descriptor
        os.close(descriptor)  # somebody cleaned the folder between the two calls


def _open(path: Path) -> int:
    """Open for writing, for reading if it may not be written, or make it."""
    common = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        for flags in (os.O_RDWR, os.O_RDONLY):
            try:
                return os.open(path, flags | common)
            except FileNotFoundError:
                break
            except PermissionError:
                continue
        return _make(path, common)
    except OSError as error:
        raise UsageError(f"lock file {path}: {error.strerror}") from error


def _make(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
    except FileExistsError:  # another process made it just now
        return os.open(path, os.O_RDWR | flags)
    os.fchmod(descriptor, 0o666)  # whatever the umask
    return descriptor


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int, study: str) -> None:
    record = {
        "pid": os.getpid(),
        "study": study,
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    _write(descriptor, json.dumps(record).encode()[:_RECORD_BYTES])


def _write(descriptor: int, content: bytes) -> None:
    """Replace the file's content; a lock on a file that may not be written is a lock, too."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    except OSError:  # opened for reading only, or the disk is full
        return
