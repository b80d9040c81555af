"""Keep a machine's copies of the jobs' mailboxes, and see what its ranks write there.

The folder of a job belongs to the job's user, who may put anything into it. So no link is followed, only plain files of
a limited length are read, and files are written under the open folder.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from inotify_simple import flags

from powerflow.engine.cluster.mail import MOST_BYTES, OWN_STATE, Letter, is_for_ranks, is_older
from powerflow.engine.protocol import EngineError
from powerflow.osutil.folders import opened, read_text, replace_text
from powerflow.osutil.watches import new_inotify

_RANKS = "ranks"


class Mailboxes:
    """The mailbox folders of all jobs on one machine. Only one thread may use it.

    Args:
        directory: The folder that has a folder for each job.

    Raises:
        InputError: The kernel does not let this user watch folders.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)  # the folders below are their users' to enter
        self._notify = new_inotify()
        self._watched: dict[int, tuple[str, str]] = {}  # by watch: gang, and folder below the gang's folder
        self._received: dict[tuple[str, str], str] = {}  # what others have sent: not to be sent back
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                self._watch(path.name)

    def folder(self, gang: str) -> Path:
        """Return the folder of a job."""
        return self.directory / gang

    def make(self, gang: str, user: str) -> Path:
        """Return the folder of a job, made for its user if it does not exist.

        Raises:
            EngineError: There is no such user.
            OSError: The folder cannot be made.
        """
        path = self.folder(gang)
        with contextlib.suppress(FileNotFoundError), opened(path / _RANKS):
            return path
        (path / _RANKS).mkdir(parents=True, exist_ok=True)
        if user and os.geteuid() == 0:
            try:
                account = pwd.getpwnam(user)
            except KeyError:
                raise EngineError(f"there is no login {user} on this machine") from None
            for each in (path / _RANKS, path):
                with opened(each) as folder:
                    os.fchmod(folder, 0o700)
                    os.fchown(folder, account.pw_uid, account.pw_gid)
        self._watch(gang)
        return path

    def put(self, letter: Letter) -> None:
        """Write a letter that has come for the ranks of a job, unless a later one of its kind is there.

        An empty letter deletes the file, which may also be the job's own checkpoint. Letters for jobs without a folder
        here, and files that are not part of a mailbox, are ignored.
        """
        if not is_for_ranks(letter.file) and not (letter.deletes and letter.file in OWN_STATE):
            return
        below, _, name = letter.file.rpartition("/")
        try:
            with opened(self.folder(letter.gang) / below) as folder:
                if letter.deletes:
                    os.unlink(name, dir_fd=folder)
                    return
                if is_older(letter.file, letter.text, read_text(folder, name, MOST_BYTES)):
                    return
                self._received[letter.gang, letter.file] = letter.text
                replace_text(folder, name, letter.text)
        except OSError:  # the job's user has put something else there, or the disk is full; a later letter may arrive
            return

    def news(self) -> list[Letter]:
        """Return the letters that ranks of this machine have written since the last call."""
        found: dict[tuple[str, str], Letter] = {}
        for event in self._notify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                return [letter for gang in {gang for gang, _ in self._watched.values()} for letter in self.all(gang)]
            gang, below = self._watched.get(event.wd, ("", ""))
            if event.mask & flags.IGNORED:
                self._watched.pop(event.wd, None)
            elif gang and event.name and not event.name.startswith("."):
                file = f"{below}/{event.name}" if below else event.name
                found[gang, file] = Letter(gang, file, "")
        return [letter for gang, file in found if (letter := self._letter(gang, file)) is not None]

    def all(self, gang: str) -> list[Letter]:
        """Return all letters of a job that its ranks on this machine have written."""
        files = []
        for below in ("", _RANKS):
            with contextlib.suppress(OSError), opened(self.folder(gang) / below) as folder:
                files += [f"{below}/{name}" if below else name for name in os.listdir(folder) if name[0] != "."]
        return [letter for file in files if (letter := self._letter(gang, file)) is not None]

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is news."""
        return int(self._notify.fileno())

    def close(self) -> None:
        """Stop watching."""
        self._notify.close()

    def _letter(self, gang: str, file: str) -> Letter | None:
        if not is_for_ranks(file):
            return None
        below, _, name = file.rpartition("/")
        try:
            with opened(self.folder(gang) / below) as folder:
                text = read_text(folder, name, MOST_BYTES)
        except OSError:
            return None
        if text is None or self._received.get((gang, file)) == text:
            return None
        return Letter(gang, file, text)

    def _watch(self, gang: str) -> None:
        for below in ("", _RANKS):
            with contextlib.suppress(OSError):
                mask = flags.MOVED_TO | flags.CLOSE_WRITE | flags.ONLYDIR | flags.DONT_FOLLOW
                self._watched[self._notify.add_watch(self.folder(gang) / below, mask)] = gang, below
