"""Check that store, state directory, engine folder and machine belong together, and that none is an older copy.

Ranks, books and logs are named by the number of their job. So a number must never be given twice, and what one part
remembers of a job must not be applied to another job of the same number: not after a backup was restored, a file was
deleted, or a directory was copied. Two things are kept in two places each, and compared at every start:

- **who**: the store's name and the state directory's, in the store (setting ``pair``) and in ``<state>/pair.json``;
- **when**: the *beat*, which rises before anything is launched, and the highest number of a job, in the store and in
  ``<state>/marks``. Whichever part has the lower one is older than the other.

What follows::

    the store is another's, or new beside an old directory         refused
    the directory is new beside an old store, or another's         refused
    another machine                                                refused
    ranks of this store run here, below another engine folder      refused
    the store is older than the directory                          goes on: numbers go on above all that were given
    the directory is older than its store, or is a copy            goes on, if none of the above: numbers jump ahead

``powerflow serve --restored`` accepts what would be refused: the operator says that nothing of this store runs
elsewhere. Ranks of it that still run on this machine are ended then.
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

from powerflow.engine.local.strays import end_stray_agents, end_strays, find_strays
from powerflow.errors import InputError
from powerflow.osutil.files import read_json, replace_json
from powerflow.store.high_marks import Marks
from powerflow.store.store import Store

#: Settings of the store: its name; which directory it was last used with; how often something was launched.
STORE_ID, PAIR, BEAT = "store id", "pair", "beat"
#: Numbers that are skipped where a backup may have lost some: at least so many, and so many for each second of its age.
SKIPPED, SKIPPED_PER_S = 1_000, 10.0
#: The database's numbers end at 2³¹; a jump never takes more than half of what is left.
_MOST_NUMBER = 999_999_999


@dataclass(frozen=True, slots=True)
class Pair:
    """What belongs together.

    Attributes:
        store: Name of the store, which the engine folder bears, too.
        notices: What an operator should know, one line each.
    """

    store: str
    notices: tuple[str, ...] = ()


def pair(state: Path, store: Store, *, restored: bool = False, now_s: float | None = None) -> Pair:
    """Compare a state directory with its store, and note that they belong together from now on.

    Args:
        state: The state directory.
        store: Opened, and not written by anybody else.
        restored: An operator says that what looks like another's is this one's, and that nothing of it runs elsewhere.
        now_s: Unix seconds.

    Raises:
        InputError: They do not belong together.
    """
    kept, known = _kept(state), {"store": store.get(STORE_ID), **(store.get(PAIR) or {})}
    marks = Marks(state / "marks")
    machine, now_s = _machine(), now_s or time.time()
    here: dict[str, Any] = {"machine": machine, "inode": marks.inode}
    if not restored:
        _refuse_foreign(state, store, kept, known, machine)
    name = known["store"] or kept.get("store") or secrets.token_hex(8)
    _deal_with_strays(state, name, restored)
    notices = [*_notices(kept, known, here, store, marks, restored)]
    number = max(marks.number, store.last_number())
    if notices:
        same_file = kept.get("inode") == here["inode"] and not restored
        # of a store without events it is known since when it exists
        age_s = 0.0 if same_file else now_s - (store.last_time_s() or known.get("since_s") or now_s)
        number = _above(state, number, age_s, same_file)
        store.raise_number(number)
    beat = max(store.get(BEAT, 0), marks.beat)
    directory = kept.get("state") if kept.get("state") and not restored else secrets.token_hex(8)
    since_s = known.get("since_s") or now_s
    said = {STORE_ID: name, BEAT: beat, PAIR: {"state": directory, "path": str(state), "since_s": since_s}}
    for key, value in said.items():  # only what is new: another controller may be at work, which is found out later
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
    """Read ``pair.json`` of the directory; of an earlier version, only the name of its store."""
    found = read_json(state / "pair.json")
    if found is not None:
        return found
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return {"store": (state / "store.id").read_text("ascii").strip()}
    return {}


def _refuse_foreign(state: Path, store: Store, kept: dict[str, Any], known: dict[str, Any], machine: str) -> None:
    fix = "if nothing of it runs elsewhere, start once with --restored"
    if kept.get("store") and kept["store"] != known["store"]:
        what = (
            "holds what belongs to another store" if known["store"] else "belongs to a store that is not this new one"
        )
        raise InputError(what, where=str(state), fix=f"give the store it was used with; {fix}", exit_code=1)
    if known.get("state") not in (None, kept.get("state")) and store.last_number():  # else a first start was cut short
        what = f"is not the state directory of this store: that is {known.get('path')}"
        raise InputError(what, where=str(state), fix=f"give that one (--state-dir); {fix}", exit_code=1)
    if known["store"] and not kept and store.last_number():
        what = "is a new state directory for a store that has jobs already"
        raise InputError(what, where=str(state), fix=f"give the one it was used with; {fix}", exit_code=1)
    if kept.get("machine") and machine and kept["machine"] != machine:
        raise InputError("was used on another machine", where=str(state), fix=fix, exit_code=1)


def _deal_with_strays(state: Path, name: str, restored: bool) -> None:
    """Refuse, or end if restored, ranks of this store that its engine folder does not know (a copied or lost folder).

    Raises:
        InputError: There are some, and nobody said that they may be ended.
    """
    strays = find_strays(state / "engine", name)
    if not strays:
        return
    if not restored:
        ranks = ", ".join(f"{stray.rank} (process {stray.pid})" for stray in strays[:4])
        more = f" and {len(strays) - 4} more" if len(strays) > 4 else ""
        raise InputError(
            f"does not know of ranks of its store that run here, started from {strays[0].home}: {ranks}{more}",
            where=str(state),
            fix="use that directory; or start once with --restored, which ends them",
            exit_code=1,
        )
    end_stray_agents(state / "engine", name)
    if left := end_strays(strays):
        raise InputError(f"process {left[0].pid} of an earlier rank cannot be ended", where=str(state), exit_code=1)


def _notices(
    kept: dict[str, Any], known: dict[str, Any], here: dict[str, Any], store: Store, marks: Marks, restored: bool
) -> Iterator[str]:
    """Return notices of what is older than the rest, or was moved."""
    if restored:
        yield "started with --restored: jobs that ran start again from their checkpoints"
    if not kept or known["store"] is None:
        return
    beat, store_number = store.get(BEAT, 0), store.last_number()
    if beat < marks.beat or store_number < marks.number or (known.get("state") is None and "state" in kept):
        yield "the store is older than the state directory (a backup?): what it does not know of was ended"
    elif beat > marks.beat + 1:  # one more: it was killed between the two
        yield "the state directory is older than its store (a backup?)"
    if kept.get("inode") not in (None, here["inode"]):
        yield "the state directory was copied, moved or restored; numbers of jobs jump ahead"


def _above(state: Path, known: int, age_s: float, same_file: bool) -> int:
    """Return a number that no job had: above all that are remembered anywhere.

    Where the directory is a copy, it is also above the numbers that jobs may have had since the copy was made,
    ``age_s`` seconds ago at most.
    """
    highest = max(known, *_numbers(state))
    if same_file:
        return highest
    return highest + min(SKIPPED + int(SKIPPED_PER_S * max(0.0, age_s)), (_MOST_NUMBER - highest) // 2)


def _numbers(state: Path) -> Iterator[int]:
    """Yield the numbers of jobs that have left something on the disk."""
    yield 0
    for folder in ("gangs", "jobs", "engine/fences", "engine/ranks"):
        with contextlib.suppress(OSError), os.scandir(state / folder) as entries:
            for entry in entries:
                number = entry.name.split(".", 1)[0]
                if number.isascii() and number.isdigit() and len(number) <= 9:
                    yield int(number)


def _machine() -> str:
    """Return the id of this machine; "" where it has none, as in some containers."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text("ascii").strip()
    return ""
