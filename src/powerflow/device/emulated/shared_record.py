"""Share a record between processes in a file: read without a lock, and never torn, even by kill -9 during a write.

The file holds a constant description and **two slots**. A writer, which holds the file's lock, writes the older slot
with a higher number and a checksum; the other stays whole meanwhile. A reader takes the slot with the higher number and
a right checksum. So a reader needs no lock, and a writer that dies leaves the record as it was.
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

MAGIC = b"PFGPU001"
DESCRIPTION_AT, DESCRIPTION_MOST = 8, 2040
SLOTS_AT = (2048, 3072)
FILE_BYTES = 4096
#: Attempts of a reader: it never meets two slots during a write so often in a row.
MOST_LOOKS = 1000
#: A writer that waits longer for another gives up.
LOCK_S = 2.0

#: Most writes, most of any number (joules, seconds, MHz), and most watts of one GPU.
_MOST_WRITES, _MOST, _MOST_W = 1 << 62, 1e15, 1e5

_BODY = struct.Struct("<QddddddqqdB")  # number of the write, then `EmulatedState`
_CHECK = struct.Struct("<I")
_SLOT_BYTES = _BODY.size + _CHECK.size


class EmulatedState(NamedTuple):
    """Changing state of an emulated GPU. Times are monotonic seconds of this machine.

    Attributes:
        at_s: Time of the last update.
        energy_j: Energy until then since it was created.
        locked_mhz: Clock that it is locked to; 0 if free.
        clock_since_s: Time of the last change of that.
        before_mhz: Clock that it was locked to before; 0 if free.
        load_w: Power while the loading process lives.
        load_pid, load_born: The loading process, see `processes.born`; 0 if there is none.
        seen_s: Time of the last report of the loading process.
        permitted: Clocks may be set.
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


def create_cell(path: Path, description: Mapping[str, Any], state: EmulatedState) -> bool:
    """Create the file, whole from the first moment; return False if it exists already.

    All users may write it, as with a real device, because a job's rank runs as its owner.
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
    """An open file of this kind.

    Raises:
        OSError: It cannot be opened for writing; from the methods: it was damaged since.
        ValueError: It is no such file.
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
        """Return the record."""
        return self._newest()[1]

    def change(self, how: Callable[[EmulatedState], EmulatedState]) -> EmulatedState:
        """Replace the record by ``how(record)`` and return it; writers wait for each other."""
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
        """Return number and content of the newest whole slot; write k is in slot (k − 1) mod 2."""
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
    number, *values, permitted = _BODY.unpack(body)
    state = EmulatedState._make((*values, bool(permitted)))
    return (number, state) if 0 < number <= _MOST_WRITES and _can_be(state) else None


def _can_be(state: EmulatedState) -> bool:
    """Return whether these can be numbers of a GPU: any user can write others, with a right checksum."""
    numbers = (value for value in state if isinstance(value, float))
    return all(0.0 <= value <= _MOST for value in numbers) and state.load_w <= _MOST_W
