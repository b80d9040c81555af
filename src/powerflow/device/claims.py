"""Allow only one agent per GPU on a machine, by a file lock named after the GPU's UUID.

The kernel releases the lock when the agent ends, even if it is killed. A lock file that is left behind blocks nobody.
Agents are kept apart even if they have different folders and controllers.

If root runs an agent, its lock files are in ``/run/powerflow``, where no other user can block them. The lock files of
other users are in ``/tmp/powerflow-gpus``; their agents also check whether an agent of root uses the GPU. The file name
also depends on the loaded driver. Containers that share a driver must share the directory, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from powerflow.device.protocol import DeviceError
from powerflow.osutil.files import read_json, replace_json, try_lock
from powerflow.osutil.processes import born, lives

OF_ROOT, OF_USERS = Path("/run/powerflow"), Path("/tmp/powerflow-gpus")
#: Seconds to wait for another agent that is about to end.
WAIT_S = 5.0


class GpuClaims:
    """File locks of some GPUs. Only this process may control these GPUs, until it calls `close` or ends.

    Args:
        uuids: UUIDs of the GPUs.
        directory: Directory of the lock files; None for the directory that all agents of this machine use.
        wait_s: Seconds to wait for another agent that is about to end.

    Raises:
        DeviceError: Another agent uses one of the GPUs. The message names its process.
    """

    def __init__(self, uuids: Iterable[str], directory: Path | None = None, wait_s: float = WAIT_S) -> None:
        self._locks: list[int] = []
        root = os.geteuid() == 0
        folder = directory or _usable(OF_ROOT if root else OF_USERS, 0o755 if root else 0o1777)
        until_s = time.monotonic() + wait_s
        try:
            for uuid in sorted(uuids):
                name = _name(uuid)
                if directory is None and not root:
                    _ask_root(name, uuid)
                self._locks.append(_locked(folder, name, uuid, until_s))
        except DeviceError:
            self.close()
            raise

    def close(self) -> None:
        """Release all locks."""
        while self._locks:
            os.close(self._locks.pop())


def _locked(folder: Path, name: str, uuid: str, until_s: float) -> int:
    path = folder / f"{name}.lock"
    try:
        file = try_lock(path, wait_s=until_s - time.monotonic(), pause_s=0.1)
    except OSError as error:
        raise DeviceError(
            f"GPU {uuid}: {path} cannot be used ({error.strerror}); perhaps it belongs to another user"
        ) from error
    if file is None:
        raise _taken(uuid, read_json(folder / f"{name}.json"))
    with contextlib.suppress(OSError):
        replace_json(folder / f"{name}.json", {"pid": os.getpid(), "born": born(os.getpid())})
        (folder / f"{name}.json").chmod(0o644)
    return file


def _ask_root(name: str, uuid: str) -> None:
    """Raise an error if an agent of root uses the GPU.

    Users other than root cannot test root's lock. So the function reads the note (JSON file) that root's agent has
    written beside its lock.
    """
    note = read_json(OF_ROOT / f"{name}.json")
    if note is not None and lives(int(note.get("pid") or 0), int(note.get("born") or 0)):
        raise _taken(uuid, note)


def _taken(uuid: str, note: dict[str, object] | None) -> DeviceError:
    who = f"process {note['pid']}" if note and note.get("pid") else "another process"
    return DeviceError(f"another PowerFlow controller or agent ({who}) uses GPU {uuid}")


def _usable(folder: Path, mode: int) -> Path:
    """Return the folder, created if missing. If it cannot be created (no ``/run``, for example), return `OF_USERS`."""
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(mode)
    except OSError as error:
        if folder != OF_USERS:
            return _usable(OF_USERS, 0o1777)
        raise DeviceError(f"{folder} cannot be made ({error.strerror})") from error
    return folder


def _name(uuid: str) -> str:
    """Return the name of a GPU's lock file without its ending: the UUID and a hash of the loaded driver."""
    driver = hashlib.sha256(_driver().encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9-]', '_', uuid)}-{driver}"


def _driver() -> str:
    """Return an id of the loaded driver library, the same wherever the library is mounted; "" if none is loaded."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
            if "libnvidia-ml" in line:
                _, _, _, device, inode, *_ = line.split()
                return f"{device}:{inode}"
    return ""
