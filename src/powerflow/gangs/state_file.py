"""Keep what must outlive the controller: one small file for each gang, written before what it says is done.

The engine remembers which ranks there are and how they ended, the mailbox what they say of themselves. The record adds
what neither knows: on which GPUs each rank is, which ranks are members, which were told to leave, and how it all ended.
A later version must be able to read the file: do not rename fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from powerflow.osutil.files import read_untrusted_json, replace_json


@dataclass(slots=True)
class RankEntry:
    """One rank: where it is, and whether the engine has launched it; if that is unknown, it is launched again."""

    node: str
    gpus: tuple[int, ...]
    launched: bool = False


@dataclass(slots=True)
class GangFailure:
    """Why a job has failed.

    Attributes:
        code: Exit code of the rank that failed first; None where there is none.
        text: The reason, in one line.
        rank: Rank with the log that tells more; "" for none.
        final: The job would fail in the same way again.
        excused: It is no fault of the job's, and costs it no attempt: its machine was booted, say.
        places: Node and GPUs of each rank that there was then.
    """

    code: int | None
    text: str
    rank: str = ""
    final: bool = False
    excused: bool = False
    places: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(slots=True)
class GangRecord:
    """What is known of one gang.

    Attributes:
        epoch: Of the last desired state that was taken.
        number: Number of the next rank of this epoch.
        generation: Newest target (in-place) or launch (scripts).
        members: Ranks of that generation, in order.
        ranks: All ranks that may be alive, or have ended but were not dealt with.
        leaving: Those of them that were told to leave; they may end as they like.
        ended: Ranks whose end was dealt with, oldest first; their logs are kept.
        joined: Whether a rank has been part of a generation, so that the script uses `powerflow.elastic`.
        trained_gpus: GPUs of the last generation that trained; 0 before the first one since all ranks were launched.
        steps_safe: Steps that the checkpoint holds.
        port: Port on which the ranks of a script meet.
        mark: Part of the name of its checkpoint. Other jobs may keep theirs in the same folder, and other clusters have
            jobs of the same number.
        left_gpus: How many GPUs all ranks had to leave for others, on which none has trained yet; 0: none.
        left_s: When they were told to, on the machine's monotonic clock.
        first_step: First step in the log of its first launch; -1: there was none.
        gap_s: Longest time that a script's log took from its launch to the first step, or from a step to the next.
        done: Whether a rank has trained all there is.
        steps: How many steps that were; -1 where unknown.
        killed: Whether the job shall end at once.
        failure: Why the job has failed; None if it has not.
    """

    epoch: int = -1
    number: int = 0
    generation: int = 0
    members: list[str] = field(default_factory=list)
    ranks: dict[str, RankEntry] = field(default_factory=dict)
    leaving: list[str] = field(default_factory=list)
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
        """Write the record to a file, atomically.

        Raises:
            OSError: If that cannot be done; the old file stays.
        """
        replace_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> GangRecord:
        """Read a record; a new one where there is no file."""
        found = read_untrusted_json(path)
        if found is None:
            return GangRecord()
        found["ranks"] = {
            name: RankEntry(entry["node"], tuple(entry["gpus"]), entry["launched"])
            for name, entry in found["ranks"].items()
        }
        if (failure := found["failure"]) is not None:
            places = tuple((node, tuple(gpus)) for node, gpus in failure.get("places", ()))
            found["failure"] = GangFailure(**(failure | {"places": places}))
        found.setdefault("joined", True)  # not in files of versions before that looked at it
        return GangRecord(**found)

    def drop(self, name: str) -> None:
        """Note that a rank has ended, and that its end was dealt with."""
        del self.ranks[name]
        self.ended.append(name)
        if name in self.leaving:
            self.leaving.remove(name)
        if name in self.members:
            self.members.remove(name)

    def tell_to_leave(self, names: list[str]) -> None:
        """Note that these ranks are no members any more, and may end as they like."""
        self.leaving += [name for name in names if name not in self.leaving]
        self.members = [name for name in self.members if name not in names]
