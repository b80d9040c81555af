"""Find what a rank needs at its start: the job's mailbox, the rank's number, and the pacer of an emulated GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, RANK_NAME, Mailbox, Target
from powerflow.errors import InputError
from powerflow.osutil.processes import BESIDE_RANK

if TYPE_CHECKING:
    from powerflow.device.emulated.pacer import Pacer

#: Longest wait for a target with this rank. The controller posts it before it starts the rank.
NAMED_S = 60.0


class RankPlace(NamedTuple):
    """The number of a rank, the number of all ranks, and the number of the rank among the ranks of its node."""

    rank: int
    ranks: int
    local: int


def find_mailbox() -> tuple[Mailbox | None, str]:
    """Return the job's mailbox and the name of this rank; None and "" if PowerFlow did not start the script.

    A script that a user runs in a shell beside a rank trains alone, because it must not speak for the rank.

    Raises:
        InputError: Only one of the environment variables POWERFLOW_JOB_DIR and POWERFLOW_RANK is set, or the checkpoint
            folder cannot be used.
    """
    if os.environ.get(BESIDE_RANK):
        return None, ""
    directory, name = os.environ.get(JOB_DIR), os.environ.get(RANK_NAME)
    if (directory is None) != (name is None):
        raise InputError(
            f"only one of {JOB_DIR} and {RANK_NAME} is set", fix="set both, or neither to run without PowerFlow"
        )
    if directory is None or name is None:
        return None, ""
    mailbox = Mailbox(directory, os.environ.get(CHECKPOINT_FILE))
    mailbox.create()
    _make_folder(mailbox.checkpoint.parent)
    return mailbox, name


def place_in(target: Target, name: str) -> RankPlace | None:
    """Return the place of a rank in a target (the ranks that shall train together): its number among these ranks.

    Returns:
        The place, with the number of all ranks; None if the rank is not a member of the target.
    """
    for rank, member in enumerate(target.members):
        if member.name == name:
            local = sum(other.node == member.node for other in target.members[:rank])
            return RankPlace(rank, len(target.members), local)
    return None


def first_place(mailbox: Mailbox | None, name: str) -> RankPlace:
    """Return the number that this rank will have in its first group, and the number of all ranks.

    If PowerFlow did not start the script, the numbers come from torchrun's environment variables.

    Raises:
        InputError: No target has this rank as a member within `NAMED_S` seconds.
    """
    if mailbox is None:
        environment = os.environ.get
        rank, ranks = int(environment("RANK", "0")), int(environment("WORLD_SIZE", "1"))
        return RankPlace(rank, ranks, int(environment("LOCAL_RANK", str(rank))))
    end_s = time.monotonic() + NAMED_S
    while time.monotonic() < end_s:
        target = mailbox.target()
        place = None if target is None else place_in(target, name)
        if place is not None:
            return place
        time.sleep(0.01)
    raise InputError(
        f"the controller has not given {name} a rank number within {NAMED_S:.0f} s",
        where="run.rank",
        fix="read run.rank after the first epoch has begun",
        exit_code=1,
    )


def find_pacer() -> Pacer | None:
    """Return the pacer, which slows steps on an emulated GPU to the speed of real hardware; None on a real GPU."""
    if not os.environ.get("POWERFLOW_EMULATED") or os.environ.get(BESIDE_RANK):
        return None
    from powerflow.device.emulated.pacer import pacer_from_environment

    return pacer_from_environment()


def _make_folder(path: Path) -> None:
    """Create the checkpoint folder. So an unusable folder is refused at the start, and not at the first checkpoint."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=f"checkpoint.dir {path}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError("this user may not write to the folder", where=f"checkpoint.dir {path}")
