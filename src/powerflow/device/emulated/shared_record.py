"""Share a record between processes in a file. A reader needs no lock, and never sees a half-written record.

The file holds a description that never changes, and **two slots** for the record. A writer holds the file's lock. It
overwrites the older slot, with a higher number and a checksum, and leaves the other slot as it is. A reader takes the
slot with the higher number among those with a correct checksum. So if a writer is killed while it writes, the record
stays as it was.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from powerflow.osutil.files import try_lock

MAGIC = b"PFGPU002"
DESCRIPTION_AT, DESCRIPTION_MOST = 8, 2040
SLOTS_AT = (2048, 3072)
FILE_BYTES = 4096
#: Attempts of a reader to find an intact slot. It never meets so many half-written slots in a row.
MOST_LOOKS = 1000
#: Seconds after which a writer that waits for another writer gives up.
LOCK_S = 2.0

#: Most writes, most of any number (joules, seconds, MHz), and most watts of one GPU.
_MOST_WRITES, _MOST, _MOST_W = 1 << 62, 1e15, 1e5

_BODY = struct.Struct("<QddddddqqdBddddd")  # number of the write, then `EmulatedState`
_CHECK = struct.Struct("<I")
_SLOT_BYTES = _BODY.size + _CHECK.size


class EmulatedState(NamedTuple):
    """Changing state of an emulated GPU. Times are seconds on the monotonic clock of this machine.

    Attributes:
        at_s: Time of the last update.
        energy_j: Energy from the creation of the GPU until ``at_s``, joules.
        locked_mhz: Clock that the GPU is locked to; 0 if it is not locked.
        clock_since_s: Time at which ``locked_mhz`` last changed.
        before_mhz: Value of ``locked_mhz`` before that change; 0 if the GPU was not locked.
        load_w: Watts that the GPU draws as long as the process that computes on it lives.
        load_pid, load_born: Pid and start time (see `processes.born`) of this process; 0 if there is none.
        seen_s: Time of the last report of this process.
        permitted: True if the clock may be set.
        load_tensor, load_dram: Shares of the time in which this process uses tensor cores and the whole bandwidth of
            the memory, as in `Activity`. Both are 0 if it does not report them.
        tensor_s, dram_s: Integrals of these shares over time, from the creation of the GPU until ``at_s``, seconds.
        untold_s: Seconds until ``at_s`` in which a process computed and did not report them.
    """

    at_s: float = 0.0
    energy_j: float = 0.0
    locked_mhz: float = 0.0
    clock_since_s: float = 0.0
    before_mhz: float = 0.0
    load_w: float = 0.0
    load_pid: int = 0
    load_born: int = 0
    seen_s: float = 0.0
    permitted: bool = True
    load_tensor: float = 0.0
    load_dram: float = 0.0
    tensor_s: float = 0.0
    dram_s: float = 0.0
    untold_s: float = 0.0


def create_cell(path: Path, description: Mapping[str, Any], state: EmulatedState) -> bool:
    """Create the file of an emulated GPU; return False if the file exists already.

    Other processes never see an incomplete file. All users may write to the file, as with a real device, because the
    ranks of a job run as the job's owner.
    """
    text = json.dumps(description).encode()
    if len(text) > DESCRIPTION_MOST:
        raise ValueError(f"the description of {path} is too long")
    content = bytearray(FILE_BYTES)
    content[: len(MAGIC)] = MAGIC
    content[DESCRIPTION_AT : DESCRIPTION_AT + len(text)] = text
    slot = _packed(1, state)
    content[SLOTS_AT[0] : SLOTS_AT[0] + len(slot)] = slot
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    try:
        temporary.chmod(0o666)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


class SharedRecord:
    """A record that processes share, in an open file that `create_cell` has created.

    Raises:
        OSError: The file cannot be opened for writing. Methods raise this error if the file was damaged later.
        ValueError: The file was not created by `create_cell`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # not mapped: users who may write the file may also truncate it, and reading beyond the end of a map kills
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        content = os.pread(self._file, FILE_BYTES, 0)
        if len(content) != FILE_BYTES or not content.startswith(MAGIC):
            raise ValueError(f"{self.path} is not an emulated GPU of this version")
        text = content[DESCRIPTION_AT : DESCRIPTION_AT + DESCRIPTION_MOST].rstrip(b"\0")
        self.description: dict[str, Any] = json.loads(text)

    def read(self) -> EmulatedState:
        """Return the current record."""
        return self._newest()[1]

    def change(self, how: Callable[[EmulatedState], EmulatedState]) -> EmulatedState:
        """Replace the record by ``how(record)``, and return the new record.

        If another process is writing, wait until it has finished.
        """
        # `try_lock` opens the file again, so that the lock also separates threads and forks. Writing takes
        # microseconds; a writer that never releases the lock must not stop the others for ever.
        file = try_lock(self.path, wait_s=LOCK_S, pause_s=0.0002, create=False)
        if file is None:
            raise OSError(errno.EAGAIN, "is locked", str(self.path))
        try:
            number, state = self._newest()
            after = how(state)
            slot, at = _packed(number + 1, after), SLOTS_AT[number % 2]
            os.pwrite(file, slot, at)
        finally:
            os.close(file)
        return after

    def _newest(self) -> tuple[int, EmulatedState]:
        """Return the number and the record of the newest intact slot (one of two places in the file).

        Write number k goes to slot (k − 1) mod 2.
        """
        for _ in range(MOST_LOOKS):
            content = os.pread(self._file, FILE_BYTES - SLOTS_AT[0], SLOTS_AT[0])
            slots = (content[at - SLOTS_AT[0] : at - SLOTS_AT[0] + _SLOT_BYTES] for at in SLOTS_AT)
            found = [whole for slot in slots if len(slot) == _SLOT_BYTES and (whole := _unpacked(slot))]
            if found:
                return max(found)
            # both were written while they were copied: read again
        raise OSError(errno.EIO, "is damaged", str(self.path))


def _packed(number: int, state: EmulatedState) -> bytes:
    body = _BODY.pack(number, *state)
    return body + _CHECK.pack(zlib.crc32(body))


def _unpacked(slot: bytes) -> tuple[int, EmulatedState] | None:
    body = slot[: _BODY.size]
    if _CHECK.unpack_from(slot, _BODY.size)[0] != zlib.crc32(body):
        return None
    number, *values = _BODY.unpack(body)
    state = EmulatedState._make(values)
    state = state._replace(permitted=bool(state.permitted))
    return (number, state) if 0 < number <= _MOST_WRITES and _can_be(state) else None


def _can_be(state: EmulatedState) -> bool:
    """Return True if the values can be those of a GPU. Any user can write impossible values with a correct checksum."""
    numbers = (value for value in state if isinstance(value, float))
    shares = state.load_tensor <= 1.0 and state.load_dram <= 1.0
    return all(0.0 <= value <= _MOST for value in numbers) and state.load_w <= _MOST_W and shares
