"""Keep what was watched in one SQLite file, small enough for months.

A job is one row in whole joules and seconds, with its energy by hour as four bytes an hour; what no job had is one row
per node and hour. The state of the watch (who holds what, the last readings) is one row, so that a later start goes on
where this one ended.
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.errors import InputError
from powerflow.units import DAY_S, HOUR_S
from powerflow.watch.owners import WatchedJob
from powerflow.watch.use import JobUse
from powerflow.watch.watcher import HourUse, NodeHour, SettledUse

#: Number of the layout of the tables; stored in the file.
_LAYOUT = 1
_TABLES = """
CREATE TABLE words(id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE);
CREATE TABLE jobs(
    number INTEGER PRIMARY KEY, key TEXT NOT NULL, id TEXT NOT NULL, name INTEGER, user INTEGER, account INTEGER,
    partition INTEGER, state INTEGER, comment INTEGER, gpus INTEGER, submitted_s INTEGER, start_s REAL, end_s REAL,
    from_s REAL, energy_j REAL, low_j REAL, high_j REAL, gpu_s REAL, idle_s REAL, idle_j REAL, judged_s REAL,
    clock REAL, clock_s REAL, utilisation REAL, utilisation_s REAL, sm_active REAL, sm_active_s REAL,
    memory_active REAL, memory_active_s REAL, first_hour INTEGER, hours BLOB);
CREATE INDEX jobs_by_end ON jobs(end_s);
CREATE TABLE others(
    hour INTEGER, node INTEGER, known INTEGER, energy_j REAL, low_j REAL, high_j REAL, gpu_s REAL,
    PRIMARY KEY(hour, node, known)) WITHOUT ROWID;
CREATE TABLE state(id INTEGER PRIMARY KEY CHECK(id = 1), content TEXT NOT NULL);
"""
_WORDS = ("name", "user", "account", "partition", "state", "comment")
_PLAIN = ("energy_j", "low_j", "high_j", "gpu_s", "idle_s", "idle_j", "judged_s")
_SUMS = ("clock", "utilisation", "sm_active", "memory_active")
_COLUMNS = (
    *("number", "key", "id", *_WORDS, "gpus", "submitted_s", "start_s", "end_s", "from_s", *_PLAIN),
    *(column for name in _SUMS for column in (name, f"{name}_s")),
    *("first_hour", "hours"),
)


@dataclass(frozen=True, slots=True)
class JobRow:
    """One watched job, with what it has used.

    Attributes:
        job: The job.
        use: What it has used, as far as there are readings.
        gpus: Number of GPUs that it holds or held; 0 if it is not known.
    """

    job: WatchedJob
    use: JobUse
    gpus: int


class WatchLedger:
    """The file of what was watched. One program may write it at a time; others may read it meanwhile."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the file; a new one is readable by its owner alone, since it names other users' jobs.

        Raises:
            InputError: The file cannot be opened, is no such file, or was written by a newer PowerFlow.
        """
        self.path = path
        try:
            self._file = _opened_to_write(path) if create else _opened_to_read(path)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"cannot be used: {error}", where=str(path), exit_code=1) from error
        self._numbers: dict[str, int] = {}
        self._last = 0
        self._words: dict[str, int] = {}

    def _prepare(self) -> None:
        (layout,) = self._file.execute("PRAGMA user_version").fetchone()
        if layout == 0:
            if self._file.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
                raise InputError("is a database of something else", where=str(self.path), fix="name another file")
            self._file.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_LAYOUT}; COMMIT;")
        elif layout != _LAYOUT:
            raise InputError(
                f"was written by another version (layout {layout}, not {_LAYOUT})",
                where=str(self.path),
                fix="use the PowerFlow that wrote it, or name another file",
            )

    def size(self) -> int:
        """Return the size of the file, bytes."""
        (pages,), (each,) = (self._file.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
        return int(pages) * int(each)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    # -- writing -----------------------------------------------------------------------------------------------------

    def save(self, settled: SettledUse, gpus: Mapping[str, int], state: Mapping[str, Any]) -> None:
        """Write what was settled, and the state of the watch, all or nothing.

        Args:
            settled: What was settled since the last call.
            gpus: Number of GPUs of each of its jobs, by key.
            state: JSON object from which a later start goes on.

        Raises:
            InputError: The file cannot be written (a full disk, another writer); it stays as it was.
        """
        try:
            with self._all_or_nothing():
                for key, (job, use) in settled.jobs.items():
                    self._save_job(job, use, gpus.get(key, 0))
                for (node, hour, known), other in settled.others.items():
                    columns = (other.energy_j, other.low_j, other.high_j, other.gpu_s)
                    self._file.execute(
                        "INSERT INTO others VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                        " SET energy_j = energy_j + excluded.energy_j, low_j = low_j + excluded.low_j,"
                        " high_j = high_j + excluded.high_j, gpu_s = gpu_s + excluded.gpu_s",
                        (hour, self._word(node), int(known), *map(_whole, columns)),
                    )
                self._file.execute("INSERT OR REPLACE INTO state VALUES(1, ?)", (json.dumps(state),))
        except sqlite3.Error as error:
            self._words.clear()
            self._numbers.clear()
            raise InputError(f"cannot be written: {error}", where=str(self.path), exit_code=1) from error
        for key in settled.ended:
            self._numbers.pop(key, None)

    def _save_job(self, job: WatchedJob, use: JobUse, gpus: int) -> None:
        first, last = min(use.hours, default=0), max(use.hours, default=-1)
        sums = {name: getattr(use, name) for name in _SUMS}
        values = {
            "number": self._number(job.key),
            "key": job.key,
            "id": job.id,
            **{name: self._word(getattr(job, name)) for name in _WORDS},
            "gpus": gpus,
            "submitted_s": _whole(job.submitted_s),
            "start_s": _whole(job.start_s),
            "end_s": _whole(job.end_s),
            "from_s": _whole(use.from_s),
            **{name: _whole(getattr(use, name)) for name in _PLAIN},
            **{name: _whole(total) for name, (total, _) in sums.items()},
            **{f"{name}_s": _whole(seconds) for name, (_, seconds) in sums.items()},
            "first_hour": first,
            "hours": array.array("f", [use.hours.get(hour, 0.0) for hour in range(first, last + 1)]).tobytes(),
        }
        marks = ", ".join(f":{column}" for column in _COLUMNS)
        self._file.execute(f"INSERT OR REPLACE INTO jobs({', '.join(_COLUMNS)}) VALUES({marks})", values)

    def _number(self, key: str) -> int:
        """Return the number of a job's row; a job that the saved state does not have is new, whatever its key was."""
        if not self._numbers:
            open_jobs = {job["key"] for job in self.state().get("jobs", ())}
            (newest,) = self._file.execute("SELECT ifnull(max(end_s), 0) FROM jobs").fetchone()
            recent = "SELECT key, number FROM jobs WHERE end_s IS NULL OR end_s >= ? ORDER BY number"
            rows = self._file.execute(recent, (newest - DAY_S,))
            self._numbers.update((key, number) for key, number in rows if key in open_jobs)
            (self._last,) = self._file.execute("SELECT ifnull(max(number), 0) FROM jobs").fetchone()
        if key not in self._numbers:
            self._last += 1
            self._numbers[key] = self._last
        return self._numbers[key]

    def _word(self, word: str) -> int | None:
        if not word:
            return None
        if word not in self._words:
            if len(self._words) > 10_000:
                self._words.clear()
            self._file.execute("INSERT OR IGNORE INTO words(word) VALUES(?)", (word,))
            (self._words[word],) = self._file.execute("SELECT id FROM words WHERE word = ?", (word,)).fetchone()
        return self._words[word]

    # -- reading -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state of the watch as it was saved last; empty if there is none."""
        found = self._file.execute("SELECT content FROM state").fetchone()
        content = json.loads(found[0]) if found else {}
        return content if isinstance(content, dict) else {}

    def jobs(self, since_s: float, until_s: float) -> list[JobRow]:
        """Return the jobs that ran in a time window (Unix seconds), with all that they have used."""
        names = ", ".join(f"(SELECT word FROM words WHERE id = jobs.{name}) AS {name}_word" for name in _WORDS)
        rows = self._file.execute(
            f"SELECT {', '.join(_COLUMNS)}, {names} FROM jobs"
            " WHERE (end_s IS NULL OR end_s >= ?) AND start_s <= ? ORDER BY number",
            (since_s, until_s),
        )
        columns = [column[0] for column in rows.description]
        return [_row(dict(zip(columns, row, strict=True))) for row in rows]

    def others(self, since_s: float, until_s: float) -> dict[NodeHour, HourUse]:
        """Return what no job had, by node and hour, in a time window (Unix seconds)."""
        rows = self._file.execute(
            "SELECT word, hour, known, energy_j, low_j, high_j, gpu_s FROM others JOIN words ON words.id = node"
            " WHERE hour BETWEEN ? AND ?",
            (since_s // HOUR_S, until_s // HOUR_S),
        )
        return {NodeHour(node, hour, bool(known)): HourUse(*use) for node, hour, known, *use in rows}


def _whole(value: float | None) -> float | None:
    """Round a number to whole joules or seconds, which SQLite keeps in three or four bytes instead of eight."""
    return None if value is None or math.isinf(value) else float(round(value))


def _row(row: Mapping[str, Any]) -> JobRow:
    words = {name: row[f"{name}_word"] or "" for name in _WORDS}
    job = WatchedJob(row["key"], row["id"], row["start_s"], row["end_s"], submitted_s=row["submitted_s"], **words)
    joules = array.array("f", row["hours"])
    values: dict[str, Any] = {name: row[name] for name in _PLAIN}
    values.update({name: (row[name], row[f"{name}_s"]) for name in _SUMS})
    use = JobUse(
        **values,
        hours={row["first_hour"] + at: each for at, each in enumerate(joules)},
        from_s=math.inf if row["from_s"] is None else row["from_s"],
    )
    return JobRow(job, use, row["gpus"])


def _opened_to_write(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    file = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("PRAGMA synchronous=NORMAL")
    return file


def _opened_to_read(path: Path) -> sqlite3.Connection:
    """Open the file without a right to write: a copy may lie in a folder of somebody else."""
    if not path.is_file():
        raise InputError("nothing was watched yet", where=str(path), fix="run powerflow watch first", exit_code=3)
    address = path.absolute().as_uri()
    try:
        file = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=10.0, isolation_level=None)
        file.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError:  # no right to make the files that SQLite needs beside it: nobody writes it now
        file = sqlite3.connect(f"{address}?immutable=1", uri=True, timeout=10.0, isolation_level=None)
    return file


def uses_of(rows: Sequence[JobRow]) -> dict[str, JobUse]:
    """Return what jobs that are not finished have used so far, for a watch that goes on."""
    return {row.job.key: row.use for row in rows}
