"""What of a gang must outlive the controller: one small file a job, written before what it says is done.

The engine remembers which ranks there are and how they ended, the mailbox what they say of themselves. The book adds
what neither knows: on which GPUs each rank is, who is a member, who was told to leave, and how it all ended.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from powerflow.osutil.files import read_untrusted_json, replace_json


@dataclass(slots=True)
class RankEntry:
    """One rank: where it is, and whether the engine has taken its launch (if not, launching again does no harm)."""

    node: str
    gpus: tuple[int, ...]
    launched: bool = False


@dataclass(slots=True)
class GangFailure:
    """Why a job has failed.

    Attributes:
        code: First exit code.
        text: One line.
        rank: Whose log tells more; "" for nobody's.
        final: It would end in the same way again.
        excused: It is no fault of the job's, and costs it no attempt: its machine was booted.
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
    """One gang.

    Attributes:
        epoch: Of the last order taken.
        number: Number of the next rank of this epoch.
        generation: Newest target (in-place) or launch (scripts).
        members: Ranks of that generation, in order.
        ranks: All ranks that may be alive, or whose end has not been dealt with.
        leaving: Those of them that were told to leave; however they end is fine.
        ended: Ranks dealt with, oldest first; their logs are kept.
        joined: A rank has been part of a generation: the script uses the library.
        trained_gpus: GPUs of the last generation that was seen to train; 0 before the first of this life.
        steps_safe: Steps that the checkpoint holds.
        port: Where the ranks of a script meet.
        mark: In the name of its checkpoint. Other jobs may keep theirs in the same folder, and other clusters have
            jobs of the same number.
        left_gpus: GPUs that all ranks had to leave for others, on which none has trained yet; 0: none.
        left_s: When it was told so, on the clock of this machine since it was started.
        first_step: First step that the log of its first launch told; -1: none was told.
        gap_s: Longest time that a script's log took from its launch to the first step, or from a step to the next.
        done: A rank has trained all there is, after so many ``steps``.
        killed: The job shall end at once.
        failure: Set once the job has failed.
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
        """Write it.

        Raises:
            OSError: If that cannot be done; what was there stays.
        """
        replace_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> GangRecord:
        """Read one; an empty one where there is none."""
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
        found.setdefault("joined", True)  # a book of before that was looked at
        return GangRecord(**found)

    def drop(self, name: str) -> None:
        """A rank is gone, and its end has been dealt with."""
        del self.ranks[name]
        self.ended.append(name)
        if name in self.leaving:
            self.leaving.remove(name)
        if name in self.members:
            self.members.remove(name)

    def tell_to_leave(self, names: list[str]) -> None:
        """From now on these are no members, and may end as they like."""
        self.leaving += [name for name in names if name not in self.leaving]
        self.members = [name for name in self.members if name not in names]
