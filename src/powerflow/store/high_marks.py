"""Keep the highest job number and the number of launches in a file, to recognise an older copy of the database.

The file's only line is overwritten before a submission is acknowledged or a rank (process of a job) is launched. It is
not flushed to the disk. So after a power failure the file may have lower numbers than the database, which does no harm.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

_BYTES = 64


class Marks:
    """File with the highest job number and the number of launches. A missing file is created.

    Attributes:
        number: Highest job number so far.
        beat: Number of launches so far.
        inode: The file's inode number. A copy of the file has another one.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._guard = threading.Lock()
        self.inode = os.fstat(self._file).st_ino
        self.number, self.beat = _read(os.pread(self._file, _BYTES, 0))

    def set(self, *, number: int = 0, beat: int = 0) -> None:
        """Raise the highest job number and the number of launches in the file. Lower numbers are ignored.

        Raises:
            OSError: The file cannot be written.
        """
        with self._guard:
            number, beat = max(number, self.number), max(beat, self.beat)
            line = json.dumps({"number": number, "beat": beat}).ljust(_BYTES - 1) + "\n"
            os.pwrite(self._file, line.encode("ascii"), 0)
            self.number, self.beat = number, beat

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _read(line: bytes) -> tuple[int, int]:
    try:
        found = json.loads(line)
        return int(found["number"]), int(found["beat"])
    except (ValueError, KeyError, TypeError):  # the file is new or damaged: the numbers known elsewhere decide
        return 0, 0
