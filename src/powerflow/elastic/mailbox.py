"""How a controller and a job's ranks talk: small files in the job's directory, each replaced as a whole.

Files outlive either side, so a controller that was killed finds everything where it was, and ranks that have lost
their controller simply see no news. One writer a file::

    target.json         controller → ranks    what the gang shall be: a generation, and its members in order
    switch.json         leader → ranks        which generation the gang goes over to, and at which step
    ranks/NAME.json     each rank → all       where it stands
    rendezvous-G.json   member 0 of generation G → its members    where to meet
    checkpoint.pt       rank 0                state, when all ranks must go or every so often (or elsewhere)

All ranks of a gang see the same directory: one machine, or a file system that is shared.

**Leading.** Ranks follow ``switch.json`` alone. While a generation is whole its rank 0 leads: it sees a newer target,
waits (training on) until every newcomer is ready, and then says "from step k + 1 on" *before* it enters the all-reduce
of step k; whoever comes out of that all-reduce has it to read, so all go over at the same step without a word more.
Where no generation is whole (the first start, or a peer was lost) the first member of the target leads: it waits until
every member is ready or broken. Whoever is not a member of what it goes over to leaves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from powerflow.osutil.files import read_untrusted_json, replace_json

#: What the ranks find in their environment.
JOB_DIR = "POWERFLOW_JOB_DIR"
RANK_NAME = "POWERFLOW_RANK"
#: Folder in which the job is to keep its state.
CHECKPOINT_DIR = "POWERFLOW_CHECKPOINT_DIR"
#: The file in it that is the gang's; not set where that is the one in the job's directory.
CHECKPOINT_FILE = "POWERFLOW_CHECKPOINT_FILE"
CHECKPOINT = "checkpoint.pt"


class Phase(StrEnum):
    """What a rank is doing."""

    STARTING = "starting"  # importing, building model and data
    READY = "ready"  # built; waits to be taken into the gang
    COMPUTING = "computing"  # in a step: takes a batch; forward, backward
    SYNCING = "syncing"  # waits for the others: all-reduce
    OUTSIDE = "outside"  # out of a step: the script updates, logs, saves, or does anything else
    EVALUATING = "evaluating"  # the script has the model compute without gradients
    REGROUPING = "regrouping"  # forms the group of a new generation
    SAVING = "saving"  # writes a checkpoint
    BROKEN = "broken"  # lost a peer; waits for a new generation
    RELEASED = "released"  # left as it was told; ends with code 0
    DONE = "done"  # all epochs trained; ends with code 0


#: Holds how long ranks wait for one that does something else than steps.
_PATIENCE = "patience.json"


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of a generation: its name (`RankName` as text) and the node it is on."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Target:
    """What the gang shall be.

    Attributes:
        generation: Rises by at least one with every change. Ranks never go back.
        members: Ranks in order of their number in the group; survivors first. Empty: save a checkpoint and leave.
        local_batch_max: Most samples of one pass on one GPU; 0: no limit.
        nodes: Nodes that the members stand on.
        checkpoint_s: Save a checkpoint every so many seconds; 0: only when all ranks must leave.
        outside_s: Seconds that a rank may do something else than steps while others wait for it.
    """

    generation: int
    members: tuple[Member, ...]
    local_batch_max: int
    nodes: int = 1
    checkpoint_s: float = 0.0
    outside_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Switch:
    """The gang goes over to this target just before this step (counted over all epochs); a broken one at once."""

    target: Target
    step: int


@dataclass(frozen=True, slots=True)
class RankReport:
    """Where one rank stands.

    Attributes:
        name: Which.
        pid: Its process.
        generation: Generation it belongs to; 0 before its first.
        phase: What it does.
        phase_s: Unix seconds since when.
        step: Steps whose update is done, over all epochs.
        epoch: Epoch it is in, from 0.
        steps_total: Steps of the whole run, None while unknown.
        timed_steps, timed_s: Steps of this generation, and the seconds they took (pauses and regrouping left out).
        samples: Samples trained by the whole gang so far.
        local_batch, accumulation: Samples of one pass on one GPU, and passes per step, in this generation.
        global_batch: Samples per step, 0 while unknown.
        pause_s: Seconds the last regroup took for this rank, from the last step's end to the next one's start.
        note: What went wrong, in one line; "" if nothing.
        beat: Rises with every report: one that stays says that the whole process stands still.
        refusal: Why the script was ended, if it would be again; "" if it was not.
        saved_step: Step that ``checkpoint.pt`` holds, as far as this rank knows; 0 while there is none.
    """

    name: str
    pid: int
    generation: int
    phase: Phase
    phase_s: float
    step: int = 0
    epoch: int = 0
    steps_total: int | None = None
    timed_steps: int = 0
    timed_s: float = 0.0
    samples: int = 0
    local_batch: int = 0
    accumulation: int = 1
    global_batch: int = 0
    pause_s: float = 0.0
    note: str = ""
    saved_step: int = 0
    beat: int = 0
    refusal: str = ""


class Mailbox:
    """One job's directory. Reading what is not there (yet) gives None.

    Attributes:
        directory: That.
        checkpoint: File in which the gang's state is saved. Ranks alone use it: it lies where the job's user says.
    """

    def __init__(self, directory: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(directory)
        self.checkpoint = self.directory / CHECKPOINT if checkpoint is None else Path(checkpoint)

    def create(self) -> None:
        """Make the directory."""
        (self.directory / "ranks").mkdir(parents=True, exist_ok=True)

    def post_target(self, target: Target) -> None:
        """Tell the ranks what the gang shall be.

        ``outside_s`` lies apart: ranks that were started by version 0.1.0 end at a word that they do not know.
        """
        if target.outside_s:
            replace_json(self.directory / _PATIENCE, {"outside_s": target.outside_s})
        replace_json(self.directory / "target.json", _words(target))

    def target(self) -> Target | None:
        """What the gang shall be."""
        found = read_untrusted_json(self.directory / "target.json")
        return None if found is None else self._target(found)

    def post_switch(self, switch: Switch) -> None:
        """Tell the ranks when to go over."""
        replace_json(self.directory / "switch.json", {"target": _words(switch.target), "step": switch.step})

    def switch(self) -> Switch | None:
        """When to go over."""
        found = read_untrusted_json(self.directory / "switch.json")
        return None if found is None else Switch(self._target(found["target"]), found["step"])

    def _target(self, found: dict[str, Any]) -> Target:
        """A target from what was written; what a later version says besides is passed over."""
        members = tuple(Member(member["name"], member["node"]) for member in found["members"])
        patience = read_untrusted_json(self.directory / _PATIENCE) or {}
        known = {key: value for key, value in (patience | found).items() if key in Target.__slots__}
        return Target(**{**known, "members": members})

    def post_rendezvous(self, generation: int, place: Mapping[str, Any]) -> None:
        """Say where the members of a generation meet."""
        replace_json(self.directory / f"rendezvous-{generation}.json", place)

    def rendezvous(self, generation: int) -> Mapping[str, Any] | None:
        """Where the members of a generation meet."""
        return read_untrusted_json(self.directory / f"rendezvous-{generation}.json")

    def report(self, report: RankReport) -> None:
        """Say where a rank stands."""
        replace_json(self.directory / "ranks" / f"{report.name}.json", asdict(report))

    def reports(self, names: Sequence[str]) -> list[RankReport]:
        """Where these ranks stand, as far as they have said so."""
        ranks = self.directory / "ranks"
        found = (read_untrusted_json(ranks / f"{name}.json") for name in names)
        return [RankReport(**{**entry, "phase": Phase(entry["phase"])}) for entry in found if entry is not None]

    def living(self, silent_s: float) -> list[RankReport]:
        """Ranks that have reported no longer than so many seconds before the latest report of all."""
        written: dict[str, float] = {}
        for path in (self.directory / "ranks").glob("[!.]*.json"):
            with contextlib.suppress(FileNotFoundError):
                written[path.stem] = path.stat().st_mtime
        latest = max(written.values(), default=0.0)
        return self.reports([name for name, when in written.items() if latest - when <= silent_s])


class FileWatch:
    """Tells with one `os.stat` whether a file was replaced since it was last asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: tuple[int, int] | None = None

    def come(self) -> bool:
        """Whether there is another file than before."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        found = (status.st_mtime_ns, status.st_ino)
        if found == self.seen:
            return False
        self.seen = found
        return True


def _words(target: Target) -> dict[str, Any]:
    words = asdict(target)
    del words["outside_s"]
    return words
