"""Find what a rank needs when it starts: its mailbox, its place among the ranks, the pacer of an emulated GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from powerflow.elastic.mailbox import CHECKPOINT_FILE, JOB_DIR, RANK_NAME, Mailbox, Target
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.device.emulated.pacer import Pacer

#: Longest wait for a target that names this rank. A controller posts it before it launches the rank.
NAMED_S = 60.0


class RankPlace(NamedTuple):
    """Number of a rank, how many there are, and its number among those on its node."""

    rank: int
    ranks: int
    local: int


def find_mailbox() -> tuple[Mailbox | None, str]:
    """Return the job's mailbox and this rank's name; None and "" for a plain run.

    Raises:
        InputError: If only one of them is set, or no checkpoint can be kept where it shall be.
    """
    directory, name = os.environ.get(JOB_DIR), os.environ.get(RANK_NAME)
    if (directory is None) != (name is None):
        raise InputError(f"only one of {JOB_DIR} and {RANK_NAME} is set", fix="set both, or none for a plain run")
    if directory is None or name is None:
        return None, ""
    mailbox = Mailbox(directory, os.environ.get(CHECKPOINT_FILE))
    mailbox.create()
    _make_folder(mailbox.checkpoint.parent)
    return mailbox, name


def place_in(target: Target, name: str) -> RankPlace | None:
    """Return the place that a target gives a rank; None if it does not name it."""
    for rank, member in enumerate(target.members):
        if member.name == name:
            local = sum(other.node == member.node for other in target.members[:rank])
            return RankPlace(rank, len(target.members), local)
    return None


def first_place(mailbox: Mailbox | None, name: str) -> RankPlace:
    """Return the place that a rank is to have in its first group.

    Raises:
        InputError: If no target names it within `NAMED_S`.
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
        f"the controller has not said within {NAMED_S:.0f} s which rank {name} is to be",
        where="run.rank",
        fix="ask for it after the first epoch has begun",
        exit_code=1,
    )


def find_pacer() -> Pacer | None:
    """Return what slows the steps of an emulated GPU to those of the hardware; None on a real one."""
    if not os.environ.get("POWERFLOW_EMULATED"):
        return None
    from powerflow.device.emulated.pacer import pacer_from_environment

    return pacer_from_environment()


def _make_folder(path: Path) -> None:
    """Make the checkpoint folder now, so that a wrong one is refused at the start and not when all must leave."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=f"checkpoint.dir {path}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError("you may not write there", where=f"checkpoint.dir {path}")
