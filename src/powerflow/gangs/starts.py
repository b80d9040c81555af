"""Remember the first ranks of each start of a job, because their logs together are the log of the job.

A start of a job begins when a job that has no rank launches ranks. The first rank of a script writes what the script
says. The first rank of an in-place job is the main rank. It changes within a start, when the main rank leaves or is
lost and the others go on: then the start has several first ranks.

The starts are in a file of their own, beside the gang record, which earlier versions of PowerFlow can still read. In
this file they have an earlier name, attempts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from powerflow.gangs.state_file import GangRecord
from powerflow.osutil.files import read_json, replace_json

#: Key of the list in the file.
_KEY = "attempts"


@dataclass(slots=True)
class Start:
    """The first ranks of one start, in order, and the number of the start; 1 is the job's first."""

    number: int
    ranks: list[str] = field(default_factory=list)


def read_starts(path: Path) -> list[Start]:
    """Return the starts in a file, the earliest first; none if there is no file."""
    found = read_json(path) or {_KEY: []}
    return [Start(int(each["number"]), list(each["ranks"])) for each in found[_KEY]]


class Starts:
    """The starts of one gang.

    Args:
        path: Path of the file.
        most: Number of logs of ended ranks that are kept; at least half of them may be of first ranks.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._known = read_starts(path)

    def note(self, record: GangRecord, started: Collection[str]) -> None:
        """Note the first rank of a gang's newest generation, and write the file if this rank was not noted yet.

        Args:
            record: The gang record, before its new ranks are launched.
            started: Names of all ranks of the gang that were ever started, and may have a log.

        Raises:
            OSError: The file cannot be written.
        """
        if not record.members or any(record.members[0] in start.ranks for start in self._known):
            return
        known, first = self._known, record.members[0]
        if known and record.launched():  # other ranks of this start run on
            known = [*known[:-1], Start(known[-1].number, [*known[-1].ranks, first])]
        else:
            if known and not any(name in started for name in known[-1].ranks):  # that one never began
                known = known[:-1]
            known = [*known, Start(known[-1].number + 1 if known else 1, [first])]
        self._write(known)

    def keep(self, ended: Sequence[str]) -> list[str]:
        """Return the ended ranks whose logs are kept, in the given order: the last ones, and the last first ranks."""
        firsts = {name for start in self._known for name in start.ranks}
        kept = [name for name in ended if name in firsts][-max(self._most // 2, 1) :]
        others = [name for name in ended if name not in kept]
        kept += others[max(len(others) - (self._most - len(kept)), 0) :]
        return [name for name in ended if name in kept]

    def forget(self, names: Collection[str]) -> None:
        """Forget ranks, because their logs are deleted.

        Raises:
            OSError: The file cannot be written.
        """
        left = [Start(each.number, [name for name in each.ranks if name not in names]) for each in self._known]
        left = [start for start in left if start.ranks]
        if left != self._known:
            self._write(left)

    def _write(self, starts: list[Start]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_json(self._path, {_KEY: [asdict(start) for start in starts]})
        self._known = starts
