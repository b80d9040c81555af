"""Read which jobs of Slurm hold which GPUs of this machine, from the notes of Slurm's Prolog.

``deploy/slurm/powerflow-prolog`` writes a note when a job gets its GPUs, ``deploy/slurm/powerflow-epilog`` deletes it.
A note is a file with the job's number as its name and one ``key=value`` on each line. Only root can write there. Even
so, no link is followed, and what is not exactly such a note is ignored, because a wrong note would change the clock of
a GPU that another job holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import flags

from powerflow.osutil.folders import opened
from powerflow.osutil.watches import new_inotify

#: Folder in which the hooks leave their notes.
NOTES = Path("/run/powerflow/slurm")
#: Largest note in bytes; each of its values has at most 1024.
MOST_BYTES = 16 * 1024
#: Most files that are looked at, and most notices, so that a full folder costs little.
_MOST_FILES, _MOST_NOTICES = 4096, 20

_JOB = re.compile(r"[1-9][0-9]{0,9}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_GPUS = re.compile(r"[0-9]{1,4}(,[0-9]{1,4})*")
_KEYS = "format job array_job array_task restart gpus visible uid user account partition name comment end"
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_CHANGES = (
    flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.CLOSE_WRITE
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
    | flags.DONT_FOLLOW
)


@dataclass(frozen=True, slots=True)
class SlurmNote:
    """What Slurm's Prolog told about a job that holds GPUs of this machine.

    Texts come from users and are for display and comparison only: no control characters, at most 1024 bytes.

    Attributes:
        id: The job's number in Slurm.
        array: Job and task of an array, such as ``1247_3``; "" if the Prolog was not told. Slurm 22.05 to 25.11 do not
            tell it: ask ``squeue``.
        gpus: Slurm's numbers of the GPUs (``IDX`` of squeue), in rising order; never empty.
        uid: The user's number; None if the Prolog was not told.
        user: The user's name, or "".
        account: The account, or "".
        partition: The partition, or "".
        name: The job's name; "" if the Prolog was not told. Slurm 22.05 to 25.11 do not tell it.
        comment: The job's comment, or "".
        since_s: When the job got the GPUs, Unix seconds.
    """

    id: str
    array: str
    gpus: tuple[int, ...]
    uid: int | None
    user: str
    account: str
    partition: str
    name: str
    comment: str
    since_s: float


class _Ignored(Exception):
    """A file is no note; the text says why."""


class SlurmNotes:
    """The notes of Slurm's Prolog on this machine. Only one thread may use it at a time.

    The folder may be missing, and may appear later. A note whose Epilog did not run (slurmd was killed, say) stays
    until the machine is started again: compare notes with ``squeue`` from time to time.

    Args:
        directory: The folder of the notes.

    Raises:
        InputError: The kernel does not let this user watch folders.
    """

    def __init__(self, directory: Path = NOTES) -> None:
        self.directory = directory
        self._notify = new_inotify()
        self._watch: tuple[int, Path, tuple[int, int]] | None = None  # descriptor, folder, its device and inode
        self._notices: list[str] = []
        self._unseen = True
        self._follow()

    def look(self) -> Mapping[str, SlurmNote]:
        """Return all notes, by the job's number in Slurm. Nothing that is in the folder raises an error."""
        self._follow()
        self._notices = []
        found: dict[str, SlurmNote] = {}
        try:
            with opened(self.directory) as folder:
                about = os.fstat(folder)
                if about.st_uid not in _trusted() or about.st_mode & _WRITABLE_BY_OTHERS:
                    self._notice("others than root can write there; it is ignored")
                    return found
                for name in self._names(folder):
                    try:
                        note = _read(folder, name)
                    except FileNotFoundError:  # the job has just ended
                        continue
                    except (_Ignored, OSError) as error:
                        self._notice(f"{ascii(name)[1:-1][:40]} is ignored: {_why(error)}")
                    else:
                        found[note.id] = note
        except FileNotFoundError:
            pass
        except OSError as error:
            self._notice(f"it cannot be read ({_why(error)})")
        return found

    def notices(self) -> Sequence[str]:
        """Return what operators should know about the folder as of the last look, one line each."""
        return tuple(self._notices)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when notes may have changed; then call `changed`."""
        return int(self._notify.fileno())

    def changed(self) -> bool:
        """Return True if notes may have changed since the last call; True at the first call.

        If the kernel cannot watch the folder, this is always True.
        """
        news, self._unseen = self._unseen, False
        for event in self._notify.read(timeout=0):
            watched = self._watch is not None and event.wd == self._watch[0]
            if event.mask & flags.Q_OVERFLOW:
                news = True
            elif watched and event.mask & (flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF):
                news = True
                self._unwatch()
            elif watched and self._is_at_notes() and not event.name.startswith("."):
                news = True
        before = self._watch
        self._follow()
        return news or self._watch is None or self._watch != before

    def close(self) -> None:
        """Stop watching."""
        self._notify.close()

    def _names(self, folder: int) -> list[str]:
        """Return the names of the files in an open folder that may be notes."""
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # the Prolog is writing it
                    continue
                if len(names) == _MOST_FILES:
                    self._notice(f"it has more than {_MOST_FILES} files; the others are ignored")
                    break
                names.append(entry.name)
        return sorted(names)

    def _notice(self, text: str) -> None:
        if len(self._notices) < _MOST_NOTICES:
            self._notices.append(f"Slurm's notes, {self.directory}: {text}")

    def _follow(self) -> None:
        """Watch the folder, or the nearest folder above it that exists, until it appears."""
        for _ in range(len(self.directory.parts) + 1):  # a folder may appear while the one above is being taken
            nearest = next(each for each in (self.directory, *self.directory.parents) if _identity(each) is not None)
            identity = _identity(nearest)
            if identity is None:
                continue
            if self._watch is not None and self._watch[1:] == (nearest, identity):
                return
            self._unwatch()
            try:
                self._watch = self._notify.add_watch(nearest, _CHANGES), nearest, identity
            except OSError:
                return

    def _is_at_notes(self) -> bool:
        return self._watch is not None and self._watch[1] == self.directory

    def _unwatch(self) -> None:
        if self._watch is not None:
            with contextlib.suppress(OSError):  # the kernel has dropped it, because the folder is gone
                self._notify.rm_watch(self._watch[0])
            self._watch = None


def _trusted() -> tuple[int, int]:
    """Return the users whose files are read: root, and the one who runs this process."""
    return 0, os.geteuid()


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder; None if it does not exist, or is a link or no folder."""
    try:
        about = os.lstat(folder)
    except OSError:
        return None
    return (about.st_dev, about.st_ino) if stat.S_ISDIR(about.st_mode) else None


def _read(folder: int, name: str) -> SlurmNote:
    if not _JOB.fullmatch(name):
        raise _Ignored("its name is no job number")
    file = os.open(name, _FILE, dir_fd=folder)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise _Ignored("it is no plain file")
        if about.st_uid not in _trusted() or about.st_mode & _WRITABLE_BY_OTHERS:
            raise _Ignored("others than root can write it")
        content = os.read(file, MOST_BYTES + 1)
    finally:
        os.close(file)
    if len(content) > MOST_BYTES:
        raise _Ignored(f"it is larger than {MOST_BYTES} bytes")
    return _parse(name, content, about.st_mtime)


def _parse(name: str, content: bytes, since_s: float) -> SlurmNote:
    pairs = [line.partition("=") for line in content.decode(errors="replace").split("\n")]
    values = {key: "".join(c if c.isprintable() else " " for c in value).strip() for key, _, value in pairs[:-1]}
    if content[:9] != b"format=1\n":
        raise _Ignored("it is not of format 1, so it was not written by this version's Prolog")
    if content[-7:] != b"\nend=1\n" or " ".join(key for key, _, _ in pairs[:-1]) != _KEYS:
        raise _Ignored("it is not whole")
    if values["job"] != name:
        raise _Ignored("it is the note of another job")
    if values["visible"].startswith("MIG-"):
        raise _Ignored("the job holds parts of GPUs (MIG), whose clocks cannot be set")
    if not _GPUS.fullmatch(values["gpus"]):
        raise _Ignored(f"its GPUs are no numbers: {values['gpus'][:40]}")
    array_job, task, uid = values["array_job"], values["array_task"], values["uid"]
    return SlurmNote(
        id=name,
        array=f"{array_job}_{task}" if _NUMBER.fullmatch(array_job) and _NUMBER.fullmatch(task) else "",
        gpus=tuple(sorted({int(number) for number in values["gpus"].split(",")})),
        uid=int(uid) if _NUMBER.fullmatch(uid) else None,
        user=values["user"],
        account=values["account"],
        partition=values["partition"],
        name=values["name"],
        comment=values["comment"],
        since_s=since_s,
    )


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
