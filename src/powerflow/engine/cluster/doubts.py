"""Notice what is wrong with the world: versions that differ, a clock that is off, a machine that comes and goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from powerflow import __version__
from powerflow.engine.cluster.machine import Machine

#: Most seconds between the clocks of a machine and of the controller.
SKEW_S = 5.0
#: A machine flaps if it is lost this often within this time.
FLAPS, FLAP_S = 3, 600.0


class Doubts:
    """Compare machines with each other and with the controller. Every method returns notices: "" withdraws one."""

    def __init__(self) -> None:
        self._lost: dict[str, deque[float]] = {}

    def answered(
        self, machine: Machine, answer: Mapping[str, Any], asked_s: float, now_s: float
    ) -> Iterator[tuple[str, str]]:
        """Yield subject and text of the notices about a machine that has just answered.

        Args:
            machine: The machine.
            answer: Its answer, with ``time_s``, its time of day, and ``waited_s``, how long it had waited by then. An
                agent of an earlier version leaves them out.
            asked_s, now_s: When it was asked, and when it answered, Unix seconds.
        """
        if "time_s" in answer:
            read_s = asked_s + float(answer.get("waited_s", 0.0))  # or later
            yield f"the clock of {machine.name}", _skew(float(answer["time_s"]), read_s, now_s)

    def described(self, machine: Machine, others: Sequence[Machine]) -> Iterator[tuple[str, str]]:
        """Yield subject and text of the notices about a machine that has just described itself.

        Args:
            machine: The machine.
            others: All other machines.
        """
        yield f"the versions of {machine.name}", _versions(machine, others)

    def lost(self, machine: Machine, now_s: float) -> tuple[str, str]:
        """Return subject and text of the notice about a machine that was lost just now."""
        times = self._lost.setdefault(machine.name, deque(maxlen=FLAPS))
        times.append(now_s)
        flaps = len(times) == FLAPS and now_s - times[0] <= FLAP_S
        text = f"it was lost {FLAPS} times in {(now_s - times[0]) / 60:.0f} minutes: look at its network or power"
        return f"the link to {machine.name}", text if flaps else ""


def _skew(theirs_s: float, asked_s: float, now_s: float) -> str:
    """Return what is wrong with a clock that was read between two moments of the controller's clock."""
    off_s = theirs_s - now_s if theirs_s > now_s else min(0.0, theirs_s - asked_s)
    if abs(off_s) <= SKEW_S:
        return ""
    side = "ahead of" if off_s > 0 else "behind"
    return f"it is {abs(off_s):.0f} s {side} the controller's: times in logs and reports of its jobs are wrong by that"


def _versions(machine: Machine, others: Iterable[Machine]) -> str:
    mine = _of(machine)
    found = []
    if mine.get("powerflow", __version__) != __version__:
        found.append(f"PowerFlow is {mine['powerflow']} there, and {__version__} on the controller")
    for what in ("python", "torch"):
        differing = [other for other in others if other.nodes and _of(other).get(what) != mine.get(what)]
        if differing:
            theirs = _of(differing[0]).get(what, "missing")
            found.append(f"{what} is {mine.get(what, 'missing')} there, and {theirs} on {differing[0].name}")
    return "; ".join(found) + (": jobs over both may fail" if found else "")


def _of(machine: Machine) -> Mapping[str, str]:
    return next((node.versions for node in machine.nodes.values()), {})
