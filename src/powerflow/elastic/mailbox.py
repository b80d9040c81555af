"""Exchange messages between the controller and the ranks of a job: small files in the job's directory.

Each file is replaced as a whole. The files remain if the controller or a rank is killed. A new controller finds the
state of the job in them, and ranks without a controller continue to train. Each file has one writer::

    target.json         controller → ranks    the generation (group of ranks) that shall train next
    switch.json         leader → ranks        the generation to which all ranks change, and at which step
    ranks/NAME.json     each rank → all       state of the rank
    rendezvous-G.json   member 0 of generation G → its members    where to meet
    checkpoint.pt       rank 0                the saved state (may be elsewhere)

Each node may have its own copy of the directory. A file then comes to other nodes late: after another file that was
written later, or not at all before the node can be reached again. So no rank concludes anything from the order or the
times of files.

This is how a gang changes to a new generation. One rank, the leader, decides when.

1. In a complete generation, rank 0 is the leader. When it sees a newer target, it continues to train until all new
   ranks are ready. Then it tells the other ranks of the generation *inside the group*
   (`powerflow.elastic.announcement`), so that all change at the same step, whenever which file comes. It posts the same
   message as ``switch.json`` for ranks outside of the group: new ranks, and ranks that lose the group at that moment.
2. At the first start, and after a rank was lost, the first member of the target is the leader. It waits until all
   members are ready, broken (have lost another rank) or regrouping. Then it posts ``switch.json``.
3. Ranks that are not members of the new generation leave.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from powerflow.osutil.files import read_untrusted_json, replace_json

#: Number of the way in which ranks form a group, hand over their state and announce changes. Raise it with each change
#: after which ranks of the old and the new code cannot train together.
PROTOCOL = 1
#: Environment variables of the ranks.
JOB_DIR = "POWERFLOW_JOB_DIR"
RANK_NAME = "POWERFLOW_RANK"
#: Folder in which the job must keep its state.
CHECKPOINT_DIR = "POWERFLOW_CHECKPOINT_DIR"
#: The gang's checkpoint file; not set if the file is in the job's directory.
CHECKPOINT_FILE = "POWERFLOW_CHECKPOINT_FILE"
CHECKPOINT = "checkpoint.pt"


class Phase(StrEnum):
    """What a rank is doing: computing, waiting for other ranks, saving a checkpoint, and so on."""

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


#: File with the values of the target that version 0.1.0 does not know.
PATIENCE = "patience.json"
_LATER = ("outside_s", "lost", "leaving")


@dataclass(frozen=True, slots=True)
class Member:
    """One rank of a generation: its name (a `RankName` as text), and the name of its node."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Target:
    """The group of ranks (generation) that shall train next, as the controller wants it.

    Attributes:
        generation: Number of the generation. It rises with each change; ranks never go back to a lower one.
        members: Ranks in order of their number; ranks that remain come first. If empty, all ranks save a checkpoint and
            leave.
        local_batch_max: Most samples of one pass on one GPU; 0 for no limit.
        nodes: Number of nodes on which the members run.
        checkpoint_s: Seconds between two checkpoints; 0 to save a checkpoint only when all ranks must leave.
        outside_s: Seconds that a rank may do something other than steps while others wait for it.
        lost: Ranks that have ended, and ranks that the gang goes on without because their node does not answer. Ranks
            that train together with one of them leave their group at once: a pulled cable closes no connection.
        leaving: Ranks of earlier generations that still run and are no members. If all members are new, they wait until
            these ranks have saved the state and left. None if the controller does not say.
    """

    generation: int
    members: tuple[Member, ...]
    local_batch_max: int
    nodes: int = 1
    checkpoint_s: float = 0.0
    outside_s: float = 0.0
    lost: tuple[str, ...] = ()
    leaving: tuple[str, ...] | None = None

    def encode(self) -> bytes:
        """Return the target as text, for another rank of the same group, without the lost ranks."""
        return json.dumps(asdict(replace(self, lost=()))).encode()

    @staticmethod
    def decode(text: bytes) -> Target:
        """Return the target that `encode` has made into text."""
        return _read(json.loads(text))


@dataclass(frozen=True, slots=True)
class Switch:
    """Message of the leader (one of the ranks) that all ranks change to a new generation.

    Attributes:
        target: The new generation.
        step: Number of the first step in the new generation, counted over all training epochs; 0 if the change happens
            at once, as after the loss of a rank. Only people read it.
    """

    target: Target
    step: int


@dataclass(frozen=True, slots=True)
class RankReport:
    """State of one rank, as the rank reports it.

    Attributes:
        name: Name of the rank.
        pid: Pid of the rank's process.
        generation: Generation of the rank; 0 before its first.
        phase: What the rank does.
        phase_s: Start of the phase, Unix seconds.
        step: Number of completed steps, over all epochs.
        epoch: Current training epoch, from 0.
        steps_total: Number of steps of the whole run; None if unknown.
        timed_steps, timed_s: Number of steps in this generation, and the seconds that they took, without pauses.
        samples: Samples that the whole gang has trained so far.
        local_batch, accumulation: Samples of one pass on one GPU, and passes per step, in this generation.
        global_batch: Samples per step; 0 if unknown.
        pause_s: Seconds of the last pause of this rank, from the end of a step to the start of the next step.
        note: What went wrong, in one line; "" if nothing.
        beat: Number that rises with each report. If it does not rise, the whole process has stopped.
        refusal: Why PowerFlow refused the script, if it would refuse the script again; "" otherwise.
        saved_step: Step of the checkpoint in ``checkpoint.pt``, as far as this rank knows; 0 if there is none.
        protocol: Number of the way in which the rank works with other ranks (`PROTOCOL`); 0 before there were numbers.
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
    protocol: int = 0


class Mailbox:
    """The messages between the controller and the ranks of one job.

    Methods return None for a message that does not exist.

    Attributes:
        directory: The job's directory.
        checkpoint: File with the saved state of the gang. The job's user may choose its place. Only ranks use it.
    """

    def __init__(self, directory: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(directory)
        self.checkpoint = self.directory / CHECKPOINT if checkpoint is None else Path(checkpoint)

    def create(self) -> None:
        """Create the job's directory and the folder for reports in it."""
        (self.directory / "ranks").mkdir(parents=True, exist_ok=True)

    def post_target(self, target: Target) -> None:
        """Post the target: the group of ranks (generation) that shall train next.

        Some values have a separate file, because ranks of version 0.1.0 fail on unknown keys.
        """
        if target.outside_s or target.lost or target.leaving is not None:
            later = {key: getattr(target, key) for key in _LATER}
            replace_json(self.directory / PATIENCE, {"generation": target.generation, **later})
        replace_json(self.directory / "target.json", _words(target))

    def leaving(self, target: Target) -> tuple[str, ...] | None:
        """Return the ranks that still run and are no members of a target; None if the controller has not named them.

        The file with their names may come after the target.
        """
        if target.leaving is not None:
            return target.leaving
        found = read_untrusted_json(self.directory / PATIENCE) or {}
        names = found.get("leaving") if found.get("generation") == target.generation else None
        return None if names is None else tuple(names)

    def lost(self) -> tuple[int, frozenset[str]]:
        """Return the newest generation for which the controller has named lost ranks, and the names of these ranks."""
        found = read_untrusted_json(self.directory / PATIENCE) or {}
        return int(found.get("generation", 0)), frozenset(map(str, found.get("lost", ())))

    def target(self) -> Target | None:
        """Return the target of the gang; None if the controller has posted none."""
        found = read_untrusted_json(self.directory / "target.json")
        return None if found is None else self._target(found)

    def post_switch(self, switch: Switch) -> None:
        """Post a switch: the message that all ranks change to a new generation."""
        replace_json(self.directory / "switch.json", {"target": _words(switch.target), "step": switch.step})

    def switch(self) -> Switch | None:
        """Return the latest switch; None if the leader has posted none."""
        found = read_untrusted_json(self.directory / "switch.json")
        return None if found is None else Switch(self._target(found["target"]), found["step"])

    def _target(self, found: dict[str, Any]) -> Target:
        patience = read_untrusted_json(self.directory / PATIENCE) or {}
        if patience.get("generation") == found["generation"]:
            return _read(patience | found)
        return _read({"outside_s": patience.get("outside_s", 0.0)} | found)  # the other values are another target's

    def post_rendezvous(self, generation: int, place: Mapping[str, Any]) -> None:
        """Post the address at which the members of a generation meet."""
        replace_json(self.directory / f"rendezvous-{generation}.json", place)

    def rendezvous(self, generation: int) -> Mapping[str, Any] | None:
        """Return the address at which the members of a generation meet; None if it is not posted yet."""
        return read_untrusted_json(self.directory / f"rendezvous-{generation}.json")

    def report(self, report: RankReport) -> None:
        """Post the state of a rank."""
        replace_json(
            self.directory / "ranks" / f"{report.name}.json",
            {name: getattr(report, name) for name in RankReport.__slots__},
        )

    def reports(self, names: Sequence[str]) -> list[RankReport]:
        """Return the reports of the given ranks. Ranks that have posted no report are left out."""
        ranks = self.directory / "ranks"
        found = (read_untrusted_json(ranks / f"{name}.json") for name in names)
        return [RankReport(**{**entry, "phase": Phase(entry["phase"])}) for entry in found if entry is not None]

    def all_reports(self) -> list[RankReport]:
        """Return the reports of all ranks that have ever posted one, whether they still live or not."""
        return self.reports([path.stem for path in (self.directory / "ranks").glob("[!.]*.json")])


class FileWatch:
    """Detects if a file was replaced since the last check, with a single call of `os.stat`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: tuple[int, int] | None = None

    def come(self) -> bool:
        """Return True if the file was created or replaced since the last call of this method."""
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
    """Return the values of a target that version 0.1.0 knows."""
    return {key: value for key, value in asdict(target).items() if key not in _LATER}


def _read(found: dict[str, Any]) -> Target:
    """Return the target that a JSON object describes. Unknown keys (of later versions) are ignored."""
    known = {key: value for key, value in found.items() if key in Target.__slots__}
    members = tuple(Member(member["name"], member["node"]) for member in found["members"])
    leaving = found.get("leaving")
    return Target(
        **{
            **known,
            "members": members,
            "lost": tuple(found.get("lost", ())),
            "leaving": None if leaving is None else tuple(leaving),
        }
    )
