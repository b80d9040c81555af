"""Messages between the controller and the ranks of a job: small files in the job's directory, replaced as a whole.

The files remain when the controller or a rank is killed. A new controller finds the state of the job in them, and ranks
without a controller train on. Each file has one writer::

    target.json         controller → ranks    the generation that the gang shall become, and its members in order
    switch.json         leader → ranks        the generation that all ranks go over to, and at which step
    ranks/NAME.json     each rank → all       state of the rank
    rendezvous-G.json   member 0 of generation G → its members    where to meet
    checkpoint.pt       rank 0                the saved state (may be elsewhere)

All ranks of a gang must see the same directory: on one machine, or on a shared file system.

How a gang goes over to a new generation: ranks follow ``switch.json`` only, and the leader writes it.

1. In a whole generation, rank 0 leads. When it sees a newer target, it trains on until all new ranks are ready. Then,
   *before* the all-reduce of step k, it posts "from step k + 1 on". Each rank that completes this all-reduce can read
   that, so that all go over at the same step.
2. At the first start, and after a rank was lost, the first member of the target leads. It waits until all members are
   ready or broken.
3. Ranks that are not members of the new generation leave.
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

#: Environment variables of the ranks.
JOB_DIR = "POWERFLOW_JOB_DIR"
RANK_NAME = "POWERFLOW_RANK"
#: Folder in which the job must keep its state.
CHECKPOINT_DIR = "POWERFLOW_CHECKPOINT_DIR"
#: The gang's checkpoint file; not set if that is the one in the job's directory.
CHECKPOINT_FILE = "POWERFLOW_CHECKPOINT_FILE"
CHECKPOINT = "checkpoint.pt"


class Phase(StrEnum):
    """What a rank is doing."""

    STARTING = "starting"  # importing, building model and data
    READY = "ready"  # model and data are built; waits to join the gang
    COMPUTING = "computing"  # in a step: takes a batch; forward, backward
    SYNCING = "syncing"  # waits for other ranks in an all-reduce
    OUTSIDE = "outside"  # outside a step: the script updates, logs, saves, or does anything else
    EVALUATING = "evaluating"  # the script uses the model without gradients
    REGROUPING = "regrouping"  # forms the group of a new generation
    SAVING = "saving"  # writes a checkpoint
    BROKEN = "broken"  # another rank was lost; waits for a new generation
    RELEASED = "released"  # has left as requested; ends with exit code 0
    DONE = "done"  # has trained all epochs; ends with exit code 0


#: File with ``outside_s`` of the target.
_PATIENCE = "patience.json"


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of a generation: its name (`RankName` as text), and its node."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Target:
    """The generation that the gang shall become.

    Attributes:
        generation: Rises with each change; ranks never go back to a lower one.
        members: Ranks in order of their number, those that remain first. If empty, all save a checkpoint and leave.
        local_batch_max: Most samples of one pass on one GPU; 0 for no limit.
        nodes: Number of nodes of the members.
        checkpoint_s: Seconds between checkpoints; 0 for checkpoints only when all ranks must leave.
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
    """All ranks go over to a target, just before a step (counted over all epochs), or at once after a rank was lost."""

    target: Target
    step: int


@dataclass(frozen=True, slots=True)
class RankReport:
    """State of one rank.

    Attributes:
        name: Name of the rank.
        pid: Id of its process.
        generation: Its generation; 0 before its first.
        phase: What it does.
        phase_s: Start of the phase, Unix seconds.
        step: Completed steps, over all epochs.
        epoch: Current epoch, from 0.
        steps_total: Steps of the whole run, None if unknown.
        timed_steps, timed_s: Steps of this generation, and the seconds that they took, without pauses.
        samples: Samples that the whole gang has trained so far.
        local_batch, accumulation: Samples of one pass on one GPU, and passes per step, in this generation.
        global_batch: Samples per step, 0 if unknown.
        pause_s: Seconds of the last pause of this rank, from the end of a step to the start of the next.
        note: What went wrong, in one line; "" if nothing.
        beat: Rises with each report; if it stays the same, the whole process stands still.
        refusal: Why the script was ended, if it would be ended again; "" otherwise.
        saved_step: Step in ``checkpoint.pt``, as far as this rank knows; 0 if there is none.
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
    """The messages in one job's directory. Messages that do not exist (yet) are None.

    Attributes:
        directory: The job's directory.
        checkpoint: File of the gang's saved state, at a place that the job's user may choose. Only ranks use it.
    """

    def __init__(self, directory: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(directory)
        self.checkpoint = self.directory / CHECKPOINT if checkpoint is None else Path(checkpoint)

    def create(self) -> None:
        """Make the directory."""
        (self.directory / "ranks").mkdir(parents=True, exist_ok=True)

    def post_target(self, target: Target) -> None:
        """Post the target of the gang.

        ``outside_s`` has its own file, because ranks started by version 0.1.0 fail on unknown keys.
        """
        if target.outside_s:
            replace_json(self.directory / _PATIENCE, {"outside_s": target.outside_s})
        replace_json(self.directory / "target.json", _words(target))

    def target(self) -> Target | None:
        """Return the target of the gang."""
        found = read_untrusted_json(self.directory / "target.json")
        return None if found is None else self._target(found)

    def post_switch(self, switch: Switch) -> None:
        """Post the switch to a target."""
        replace_json(self.directory / "switch.json", {"target": _words(switch.target), "step": switch.step})

    def switch(self) -> Switch | None:
        """Return the latest switch."""
        found = read_untrusted_json(self.directory / "switch.json")
        return None if found is None else Switch(self._target(found["target"]), found["step"])

    def _target(self, found: dict[str, Any]) -> Target:
        """Return a target from JSON; unknown keys, of later versions, are ignored."""
        members = tuple(Member(member["name"], member["node"]) for member in found["members"])
        patience = read_untrusted_json(self.directory / _PATIENCE) or {}
        known = {key: value for key, value in (patience | found).items() if key in Target.__slots__}
        return Target(**{**known, "members": members})

    def post_rendezvous(self, generation: int, place: Mapping[str, Any]) -> None:
        """Post where the members of a generation meet."""
        replace_json(self.directory / f"rendezvous-{generation}.json", place)

    def rendezvous(self, generation: int) -> Mapping[str, Any] | None:
        """Return where the members of a generation meet."""
        return read_untrusted_json(self.directory / f"rendezvous-{generation}.json")

    def report(self, report: RankReport) -> None:
        """Post the state of a rank."""
        replace_json(self.directory / "ranks" / f"{report.name}.json", asdict(report))

    def reports(self, names: Sequence[str]) -> list[RankReport]:
        """Return the states of those of these ranks that have posted one."""
        ranks = self.directory / "ranks"
        found = (read_untrusted_json(ranks / f"{name}.json") for name in names)
        return [RankReport(**{**entry, "phase": Phase(entry["phase"])}) for entry in found if entry is not None]

    def living(self, silent_s: float) -> list[RankReport]:
        """Return the states of ranks whose latest report is at most ``silent_s`` older than the newest of all."""
        written: dict[str, float] = {}
        for path in (self.directory / "ranks").glob("[!.]*.json"):
            with contextlib.suppress(FileNotFoundError):
                written[path.stem] = path.stat().st_mtime
        latest = max(written.values(), default=0.0)
        return self.reports([name for name, when in written.items() if latest - when <= silent_s])


class FileWatch:
    """Finds out with one `os.stat` whether a file was replaced since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: tuple[int, int] | None = None

    def come(self) -> bool:
        """Return whether there is another file than at the last call."""
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
