"""Keep the gang record: one small file for each gang, with the data that the next controller needs.

A gang writes its record before it acts. The engine keeps the list of ranks and how they ended; the mailbox has the
reports of the ranks. The record adds the rest: the GPUs of each rank, which ranks train together, which were told to
leave, and how the job ended. Do not rename fields: a later version of PowerFlow must be able to read the file.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from powerflow.engine.protocol import RankName
from powerflow.osutil.files import read_untrusted_json, replace_json


@dataclass(slots=True)
class RankEntry:
    """One rank in the gang record: its node, its GPUs, and whether the engine has launched it.

    If it is unknown whether a rank was launched, the launch is repeated, which does no harm.
    """

    node: str
    gpus: tuple[int, ...]
    launched: bool = False


@dataclass(slots=True)
class GangFailure:
    """The reason why a job has failed.

    Attributes:
        code: Exit code of the rank that failed first; None if there is no exit code.
        text: The reason, in one line.
        rank: Rank whose log has details; "" for none.
        final: True if the job would fail in the same way again.
        excused: True if the failure is not the job's fault and does not count against ``retries``, for example because
            its machine was booted.
        places: Node and GPUs of each rank that the job had when it failed.
    """

    code: int | None
    text: str
    rank: str = ""
    final: bool = False
    excused: bool = False
    places: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(slots=True)
class GangRecord:
    """All data about one gang that the next controller needs.

    Attributes:
        epoch: Epoch (number of the placement) of the last desired state that the gang has taken.
        number: Number of the next rank in this epoch.
        generation: Number of the newest target (in-place jobs) or of the newest launch (scripts).
        members: Ranks of the newest generation, in order.
        ranks: All ranks that may be alive, or whose end was not handled yet.
        leaving: Ranks that were told to leave. However they end, this is no failure.
        cut: Ranks that the gang goes on without, because their node does not answer. They may run, so their GPUs stay
            taken. They are ended when their node answers again.
        ended: Ranks whose end was handled, oldest first; their logs are kept.
        joined: True if a rank has been part of a generation, which shows that the script uses `powerflow.elastic`.
        trained_gpus: GPU count of the generation that trained last; 0 if none has trained since all ranks were
            launched.
        steps_safe: Number of steps in the checkpoint.
        port: Port on which the ranks of a script connect to each other.
        mark: Part of the name of the job's checkpoint, which makes the name unique. Other jobs may keep checkpoints in
            the same folder, and other clusters have jobs with the same number.
        left_gpus: If all ranks had to leave and the job has not trained since: how many GPUs it had; otherwise 0.
        left_s: When the ranks were told to leave, Unix seconds. A file of an earlier version has a monotonic time here.
        first_step: First step in the log of the job's first launch; -1: there was none.
        gap_s: Longest time in a script's log from its launch to the first step, or from one step to the next.
        done: True if a rank has trained all steps of the job.
        steps: Number of all steps of the job; -1 if unknown.
        killed: True if the job must end at once.
        failure: Why the job has failed; None if it has not failed.
    """

    epoch: int = -1
    number: int = 0
    generation: int = 0
    members: list[str] = field(default_factory=list)
    ranks: dict[str, RankEntry] = field(default_factory=dict)
    leaving: list[str] = field(default_factory=list)
    cut: dict[str, RankEntry] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    joined: bool = False
    trained_gpus: int = 0
    steps_safe: int = 0
    port: int = 0
    mark: str = ""
    left_gpus: int = 0
    left_s: float = 0.0
    first_step: int = -1
    gap_s: float = 0.0
    done: bool = False
    steps: int = 0
    killed: bool = False
    failure: GangFailure | None = None

    def save(self, path: Path) -> None:
        """Write the gang record to a file, completely or not at all.

        ``cut`` is left out if it is empty, so that an earlier version of PowerFlow can read the file.

        Raises:
            OSError: The file cannot be written; the old file stays.
        """
        fields = asdict(self)
        if not self.cut:
            del fields["cut"]
        replace_json(path, fields)

    @staticmethod
    def load(path: Path) -> GangRecord:
        """Read a gang record from a file; return a new record if there is no file."""
        found = read_untrusted_json(path)
        if found is None:
            return GangRecord()
        for ranks in ("ranks", "cut"):
            found[ranks] = {
                name: RankEntry(entry["node"], tuple(entry["gpus"]), entry["launched"])
                for name, entry in found.get(ranks, {}).items()
            }
        if (failure := found["failure"]) is not None:
            places = tuple((node, tuple(gpus)) for node, gpus in failure.get("places", ()))
            found["failure"] = GangFailure(**(failure | {"places": places}))
        found.setdefault("joined", True)  # files of earlier versions do not have it
        return GangRecord(**found)

    def begin(self, epoch: int) -> None:
        """Begin a new epoch (placement of the job). In it, the job has neither failed nor been killed."""
        self.mark = self.mark or secrets.token_hex(4)
        self.epoch = epoch
        self.number = 0
        self.killed = False
        self.failure = None

    def name(self, job_id: str, node: str, gpus: tuple[int, ...]) -> str:
        """Add a rank on these GPUs, and return its name."""
        name = str(RankName(job_id, self.epoch, self.number))
        self.number += 1
        self.ranks[name] = RankEntry(node, gpus)
        return name

    def fail(self, failure: GangFailure) -> None:
        """Note why the job has failed, and which GPUs it had."""
        failure.places = tuple((entry.node, entry.gpus) for entry in self.ranks.values())
        self.left_gpus = 0  # if the job goes on later, this counts as a new beginning
        self.failure = failure

    def drop(self, name: str) -> None:
        """Record that the gang has handled the end of a rank."""
        del self.ranks[name]
        self.ended.append(name)
        if name in self.leaving:
            self.leaving.remove(name)
        if name in self.members:
            self.members.remove(name)

    def launched(self) -> list[str]:
        """Return the names of the ranks that the engine has accepted."""
        return [name for name, entry in self.ranks.items() if entry.launched]

    def set_apart(self, name: str) -> None:
        """Go on without a rank that may run on a node that does not answer."""
        self.cut[name] = self.ranks.pop(name)
        self.leaving = [other for other in self.leaving if other != name]
        self.members = [other for other in self.members if other != name]

    def drop_unlaunched(self, names: Sequence[str]) -> list[str]:
        """Drop the ranks in ``names`` that were never launched, and return the names of the others."""
        for name in names:
            if not self.ranks[name].launched:
                self.drop(name)
        return [name for name in names if name in self.ranks]

    def tell_to_leave(self, names: list[str]) -> None:
        """Record that these ranks were told to leave. However they end, this is no failure."""
        self.leaving += [name for name in names if name not in self.leaving]
        self.members = [name for name in self.members if name not in names]
