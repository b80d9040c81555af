"""Allow one controller per GPU on the whole machine, by a file lock named after the GPU's UUID.

The kernel releases the lock when its holder ends, however that ends; a file that is left behind means nothing. State
directory and store of a controller do not matter. Controllers of root lock files in ``/run/powerflow``, where no other
user can block them; those of other users in ``/tmp/powerflow-gpus``, and they also see root's. The name has the driver
in it: controllers in containers that share a driver must share the directory, too.
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
#: How long to wait for a controller that is ending.
WAIT_S = 5.0


class GpuClaims:
    """Locks of some GPUs, held until `close` or the end of the process.

    Args:
        uuids: UUIDs of the GPUs.
        directory: Directory of the locks; None: that of all controllers of this machine.
        wait_s: How long to wait for a controller that is ending.

    Raises:
        DeviceError: Another controller uses one of them; the message names its process.
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
        """Release the locks."""
        while self._locks:
            os.close(self._locks.pop())


def _locked(folder: Path, name: str, uuid: str, until_s: float) -> int:
    path = folder / f"{name}.lock"
    try:
        file = try_lock(path, wait_s=until_s - time.monotonic(), pause_s=0.1)
    except OSError as error:
        raise DeviceError(f"GPU {uuid}: {path} cannot be used ({error.strerror}); is it another user's?") from error
    if file is None:
        raise _taken(uuid, read_json(folder / f"{name}.json"))
    with contextlib.suppress(OSError):
        replace_json(folder / f"{name}.json", {"pid": os.getpid(), "born": born(os.getpid())})
        (folder / f"{name}.json").chmod(0o644)
    return file


def _ask_root(name: str, uuid: str) -> None:
    """Refuse a GPU that a controller of root uses; other users cannot test its lock, so they read its note."""
    note = read_json(OF_ROOT / f"{name}.json")
    if note is not None and lives(int(note.get("pid") or 0), int(note.get("born") or 0)):
        raise _taken(uuid, note)


def _taken(uuid: str, note: dict[str, object] | None) -> DeviceError:
    who = f"process {note['pid']}" if note and note.get("pid") else "another process"
    return DeviceError(f"another PowerFlow controller ({who}) works with GPU {uuid}")


def _usable(folder: Path, mode: int) -> Path:
    """Return the folder, created if missing; `OF_USERS` if root has no ``/run``."""
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
    """Return the name of the lock of a GPU, which holds the driver, too."""
    driver = hashlib.sha256(_driver().encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9-]', '_', uuid)}-{driver}"


def _driver() -> str:
    """Return an id of the loaded driver library, the same wherever it is mounted; "" if none is loaded."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
            if "libnvidia-ml" in line:
                _, _, _, device, inode, *_ = line.split()
                return f"{device}:{inode}"
    return ""
