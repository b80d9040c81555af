"""Keep the controller's copy of the jobs' mailboxes, and decide which file goes to which machine.

Machines share no file system, so each has its own copy of a job's mailbox (`powerflow.elastic.mailbox`). The agent of a
machine sends what its ranks write; the controller passes it on to the other machines of the gang, with what it writes
itself. Each file has one writer. Two files may cross on their way, so a target or switch never replaces a later one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from powerflow.engine.protocol import RankName
from powerflow.osutil.folders import opened, read_text, replace_text

#: Longest file of a mailbox that is passed on.
MOST_BYTES = 1 << 18
_SHARED = re.compile(r"(target|patience|switch|rendezvous-\d{1,12})\.json")
_FROM_RANKS = re.compile(r"(switch|rendezvous-\d{1,12})\.json")
_REPORT = re.compile(r"ranks/([A-Za-z0-9_][A-Za-z0-9._-]{0,200})\.json")


#: Files of the job's own checkpoint, which the controller may delete when the job has ended.
OWN_STATE = frozenset({"checkpoint.pt", ".checkpoint.pt.new", "checkpoint.lock", "checkpoint.fence"})


class Letter(NamedTuple):
    """A file of a job's mailbox: gang, path below the mailbox folder, content; "" if the file was deleted."""

    gang: str
    file: str
    text: str

    @property
    def deletes(self) -> bool:
        """True if the file was deleted."""
        return not self.text


def may_come_from(letter: Letter, launched: set[str]) -> bool:
    """Return True if a machine may send a letter: it is a report of a rank of this gang there, or for all ranks.

    Args:
        letter: The letter.
        launched: Names of the ranks that were launched on the machine.
    """
    if len(letter.text) > MOST_BYTES:
        return False
    if found := _REPORT.fullmatch(letter.file):
        name = found.group(1)
        return name in launched and RankName.parse(name).gang == letter.gang
    return _FROM_RANKS.fullmatch(letter.file) is not None


def is_for_ranks(file: str) -> bool:
    """Return True if the name of a file is one that ranks read: reports of other ranks, or messages for all."""
    return bool(_SHARED.fullmatch(file) or _REPORT.fullmatch(file))


def is_older(file: str, new: str, old: str | None) -> bool:
    """Return True if a new target or switch has a lower generation than the old one, and so must not replace it."""
    if old is None or file not in ("target.json", "switch.json"):
        return False
    return _generation(file, new) < _generation(file, old)


def _generation(file: str, text: str) -> int:
    try:
        content = json.loads(text)
        return int((content["target"] if file == "switch.json" else content)["generation"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1


class Mailroom:
    """The controller's copies of all mailboxes, one folder for each gang. Only the engine and the gangs write there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, letter: Letter) -> bool:
        """Keep a letter that came from a machine; return False if it is older than what is kept already."""
        below, _, name = letter.file.rpartition("/")
        path = self._directory / letter.gang / below
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            with opened(path) as folder:
                if is_older(letter.file, letter.text, read_text(folder, name, MOST_BYTES)):
                    return False
                replace_text(folder, name, letter.text)
        return True

    def letters(self, gang: str) -> Iterator[Letter]:
        """Yield all letters of a gang that its ranks may need."""
        for below in ("", "ranks"):
            with contextlib.suppress(OSError), opened(self._directory / gang / below) as folder:
                for name in os.listdir(folder):
                    file = f"{below}/{name}" if below else name
                    if is_for_ranks(file) and (text := read_text(folder, name, MOST_BYTES)):
                        yield Letter(gang, file, text)
