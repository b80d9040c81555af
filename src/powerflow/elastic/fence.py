"""Refuse states of ranks that were overtaken: a checkpoint never goes back to an older generation.

If the network of a node is cut, the ranks on other nodes go on training. A rank on the cut node does not notice this.
Its state becomes old. When it leaves, it saves its state, and must not replace the newer checkpoint of the others. So a
small file beside the checkpoint holds the number of the newest generation (group of ranks) that has led the run. The
leader of each generation raises this number. A rank that saves a state reads the number first, and once more just
before the new checkpoint replaces the old one.

File locks do not help here: not all shared file systems have locks that work between nodes, and a lock says who saves,
not who may.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from powerflow.osutil.files import read_json, replace_json

if TYPE_CHECKING:
    from powerflow.elastic.gang import GangMember

#: Seconds after which a file that another node has written must be visible. Clients of NFS remember names for 60 s.
VISIBLE_S = 70.0


class Overtaken(OSError):
    """The state was not saved, because a later generation has taken over the run."""


def fence_file(checkpoint: Path) -> Path:
    """Return the file with the number of the newest generation, for a checkpoint file."""
    return checkpoint.with_suffix(".fence")


def raise_fence(checkpoint: Path, generation: int) -> None:
    """Refuse states of generations before this one from now on. A higher fence stays as it is.

    Raises:
        OSError: The file cannot be written.
    """
    if _fence(checkpoint) < generation:
        replace_json(fence_file(checkpoint), {"generation": generation})


def refuse_overtaken(checkpoint: Path, generation: int) -> None:
    """Raise an error if a later generation has taken over.

    Raises:
        Overtaken: The fence is higher than ``generation``.
    """
    fence = _fence(checkpoint)
    if fence > generation:
        raise Overtaken(f"generation {fence} has taken over from generation {generation}, to which this rank belongs")


def _fence(checkpoint: Path) -> int:
    found = read_json(fence_file(checkpoint)) or {}
    generation = found.get("generation")
    return generation if isinstance(generation, int) else 0


class SharedFolderWatch:
    """Says in the job's log if the nodes of a gang do not share the folder of the checkpoint.

    Rank 0 raises the fence of each generation. A rank of another node that still does not see it has another folder,
    and would begin at another checkpoint if it became rank 0.
    """

    def __init__(self, gang: GangMember, clock: Callable[[], float] = time.monotonic) -> None:
        self._gang = gang
        self._clock = clock
        self._since: tuple[int, float] = (0, 0.0)  # generation, and when this rank was first seen in it
        self._said = False

    def look(self) -> None:
        """Write one line to the log if this rank does not see the fence that rank 0 has raised on another node.

        Call this about twice a second, from any thread.
        """
        gang, target, now_s = self._gang, self._gang.target, self._clock()
        if self._said or not gang.whole or target is None:
            return
        if self._since[0] != target.generation:
            self._since = (target.generation, now_s)
        nodes = {member.name: member.node for member in target.members}
        here, there = nodes.get(gang.name), target.members[0].node
        if here == there or now_s - self._since[1] < VISIBLE_S:
            return
        self._said = True  # either way: one look is enough
        checkpoint = gang.mailbox.checkpoint
        if _fence(checkpoint) < target.generation:
            print(
                f"powerflow: checkpoint.dir {checkpoint.parent}: {here} and {there} do not share this folder, so the"
                " job may go back to an old state when it moves; give a folder of a shared file system",
                file=sys.stderr,
                flush=True,
            )
