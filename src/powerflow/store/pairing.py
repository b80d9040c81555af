"""Check that store, state directory, engine folder and machine belong together, and that none is an older copy.

Names of processes, records and logs contain job numbers. So two jobs must never get the same number, even after a
backup was restored, a file was deleted or a directory was copied. Two things are therefore kept in both the store and
the state directory, and compared at every start:

- **who**: the names of the store and of the state directory (setting ``pair``; ``<state>/pair.json``);
- **when**: the number of launches so far (the *beat*) and the highest job number (``<state>/marks``). The place with
  the lower number is older.

Results of the comparison::

    the store belongs to another directory            refused
    the store is new, the directory is old            refused
    the directory belongs to another store            refused
    the directory is new, the store is old            refused
    the directory was used on another machine         refused; accepted if it is the same one, in a folder that
                                                      machines share, and no rank belongs to the controller's machine
    ranks of this store, started from another engine  refused
      folder, run on this machine
    the store is older than the directory             accepted: new job numbers are above all earlier ones
    the directory is older than the store, or a copy  accepted, unless refused above: job numbers jump ahead

With ``powerflow serve --restored`` the operator confirms that no job of this store runs on another machine. Then all
these cases are accepted, and processes of this store's jobs that still run on this machine are ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerflow.engine.local.strays import end_stray_servers, end_strays, find_strays
from powerflow.errors import InputError
from powerflow.osutil.files import read_json, replace_json
from powerflow.store.high_marks import Marks
from powerflow.store.store import Store

#: Keys of the store's settings: its name; the directory that it was last used with; the count of launches.
STORE_ID, PAIR, BEAT = "store id", "pair", "beat"
#: Job numbers to skip if a backup may have lost some: at least this many, and this many per second of the backup's age.
SKIPPED, SKIPPED_PER_S = 1_000, 10.0
#: The database's numbers end at 2³¹; a jump never takes more than half of what is left.
_MOST_NUMBER = 999_999_999


@dataclass(frozen=True, slots=True)
class Pair:
    """A store and its state directory, which belong together.

    Attributes:
        store: Name of the store. The engine folder is marked with this name, too.
        notices: Messages to the operator, one line each.
    """

    store: str
    notices: tuple[str, ...] = ()


def pair(state: Path, store: Store, *, restored: bool = False, moves: bool = False, now_s: float | None = None) -> Pair:
    """Check that a state directory and a store belong together, and record this in both of them.

    Args:
        state: The state directory.
        store: The store, opened. No other process may write to it.
        restored: True if the operator confirms that this directory and this store belong together, and that no job of
            this store runs on another machine.
        moves: True if the controller may move to another machine that shares the directory, because agents of other
            machines have its ranks. They obey only the controller that was started last.
        now_s: Unix seconds; None for the present time.

    Raises:
        InputError: The state directory and the store do not belong together.
    """
    kept, known = _kept(state), {"store": store.get(STORE_ID), **(store.get(PAIR) or {})}
    marks = Marks(state / "marks")
    machine, now_s = _machine(), now_s or time.time()
    here: dict[str, Any] = {"machine": machine, "inode": marks.inode}
    if not restored:
        same = moves and kept.get("inode") == marks.inode
        _refuse_foreign(state, store, kept, known, "" if same else machine)
    name = known["store"] or kept.get("store") or secrets.token_hex(8)
    _deal_with_strays(state, name, restored)
    notices = [*_notices(kept, known, here, store, marks, restored)]
    number = max(marks.number, store.last_number())
    if notices:
        same_file = kept.get("inode") == here["inode"] and not restored
        # a store without events: the time since it was created
        age_s = 0.0 if same_file else now_s - (store.last_time_s() or known.get("since_s") or now_s)
        number = _above(state, number, age_s, same_file)
        store.raise_number(number)
    beat = max(store.get(BEAT, 0), marks.beat)
    directory = kept.get("state") if kept.get("state") and not restored else secrets.token_hex(8)
    since_s = known.get("since_s") or now_s
    said = {STORE_ID: name, BEAT: beat, PAIR: {"state": directory, "path": str(state), "since_s": since_s}}
    for key, value in said.items():  # only what is new: another controller may still be at work, which is checked later
        if store.get(key) != value:
            store.put(key, value)
    if kept != (now := {"store": name, "state": directory, **here}):
        replace_json(state / "pair.json", now, durable=True, mode=0o600)
    if (number, beat) != (marks.number, marks.beat):
        marks.set(number=number, beat=beat)
    store.follow(marks)
    for notice in notices:
        store.append("restored", notice, now_s)
    return Pair(name, tuple(notices))


def _kept(state: Path) -> dict[str, Any]:
    """Read ``pair.json`` of the state directory. A directory of an earlier version has only the name of its store."""
    found = read_json(state / "pair.json")
    if found is not None:
        return found
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return {"store": (state / "store.id").read_text("ascii").strip()}
    return {}


def _refuse_foreign(state: Path, store: Store, kept: dict[str, Any], known: dict[str, Any], machine: str) -> None:
    fix = "if no job of it runs on another machine, start once with --restored"
    if kept.get("store") and kept["store"] != known["store"]:
        what = "belongs to another store" if known["store"] else "belongs to an older store; this store is new"
        raise InputError(what, where=str(state), fix=f"give the store with which it was used; {fix}", exit_code=1)
    if known.get("state") not in (None, kept.get("state")) and store.last_number():  # else a first start was cut short
        what = f"is not the state directory of this store, which is {known.get('path')}"
        raise InputError(what, where=str(state), fix=f"give --state-dir {known.get('path')}; {fix}", exit_code=1)
    if known["store"] and not kept and store.last_number():
        what = "is a new state directory, but the store has jobs from another one"
        raise InputError(what, where=str(state), fix=f"give the store's own directory; {fix}", exit_code=1)
    if kept.get("machine") and machine and kept["machine"] != machine:
        raise InputError("was used on another machine", where=str(state), fix=fix, exit_code=1)


def _deal_with_strays(state: Path, name: str, restored: bool) -> None:
    """Find ranks of this store that its engine folder does not know, because the folder was copied or lost.

    Such ranks are ended if ``restored`` is True.

    Raises:
        InputError: There are such ranks and ``restored`` is False, or one of their processes cannot be ended.
    """
    strays = find_strays(state / "engine", name)
    if not strays:
        return
    if not restored:
        ranks = ", ".join(f"{stray.rank} (process {stray.pid})" for stray in strays[:4])
        more = f" and {len(strays) - 4} more" if len(strays) > 4 else ""
        raise InputError(
            f"processes of jobs of this store run here, but were started from {strays[0].home}: {ranks}{more}",
            where=str(state),
            fix="use that directory; or start once with --restored, which ends these processes",
            exit_code=1,
        )
    end_stray_servers(state / "engine", name)
    if left := end_strays(strays):
        raise InputError(f"process {left[0].pid} of an earlier rank cannot be ended", where=str(state), exit_code=1)


def _notices(
    kept: dict[str, Any], known: dict[str, Any], here: dict[str, Any], store: Store, marks: Marks, restored: bool
) -> Iterator[str]:
    """Yield messages about store and state directory: which is older than the other, and which was copied or moved."""
    if restored:
        yield "started with --restored: running jobs start again from their checkpoints"
    if not kept or known["store"] is None:
        return
    beat, store_number = store.get(BEAT, 0), store.last_number()
    if beat < marks.beat or store_number < marks.number or (known.get("state") is None and "state" in kept):
        yield "the store is older than the state directory (perhaps a backup): ranks unknown to the store were ended"
    elif beat > marks.beat + 1:  # a difference of 1: the controller was killed between the two writes
        yield "the state directory is older than its store (perhaps a backup)"
    if kept.get("inode") not in (None, here["inode"]):
        yield "the state directory was copied, moved or restored; the next job gets a much higher number"


def _above(state: Path, known: int, age_s: float, same_file: bool) -> int:
    """Return a number that is not below the number of any job so far, so that the next job can get the number after it.

    If the directory is a copy, the result is also above the numbers that jobs may have got since the copy was made,
    which was at most ``age_s`` seconds ago.
    """
    highest = max(known, *_numbers(state))
    if same_file:
        return highest
    return highest + min(SKIPPED + int(SKIPPED_PER_S * max(0.0, age_s)), (_MOST_NUMBER - highest) // 2)


def _numbers(state: Path) -> Iterator[int]:
    """Yield 0 and the numbers of all jobs that have left a file in the state directory."""
    yield 0
    for folder in ("gangs", "jobs", "engine/fences", "engine/ranks"):
        with contextlib.suppress(OSError), os.scandir(state / folder) as entries:
            for entry in entries:
                number = entry.name.split(".", 1)[0]
                if number.isascii() and number.isdigit() and len(number) <= 9:
                    yield int(number)


def _machine() -> str:
    """Return the id of this machine; "" if it has none, as in some containers."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text("ascii").strip()
    return ""
