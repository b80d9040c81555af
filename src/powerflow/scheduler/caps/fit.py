"""Brings what a policy said below a power cap: at a price for every watt, and by priority where that is not enough.

Jobs are slowed first, where a watt costs least worth; the slope of the last step is the **spot price** of a watt, in
seconds per joule, as λ_E. If even the lowest clocks draw too much, jobs get fewer GPUs, again the cheapest watt
first, and then, least weight first, none. Guarded jobs come last in all three.

Slowing everybody along his own hull, the cheapest watt first, is what a price on watts would do if each job chose its
clock by itself (design §7): no search for the price is needed, it is where the sorted steps end. Asking the policy
again with a dearer joule until its answer fits was tried: slower, and jobs end later (`docs/caps.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.caps.kernel import current, fewer, slower, take

SLACK_W = 1e-6  # rounding: a plan may be so much nearer to the cap than the sum of its parts


@dataclass(slots=True, eq=False)
class Menu:
    """What the jobs of one pool have, and could do with.

    Attributes:
        view: What the policy saw.
        gpus, clock: ``[J]`` what each job is to have; never changed, the answer is in the `CapFit`.
        worth: ``[J]`` of one iteration, in seconds of weighted completion time per iteration.
        watts: ``[K, N, F]`` believed watts of all n GPUs, corrected by what was metered.
        idle_w: Watts of one idle GPU.
        outside: ``[J]`` GPUs of each job that stand outside the cap's scope.
        guarded: ``[J]`` jobs that are touched only when all others have given all.
    """

    view: View
    gpus: IntArray
    clock: IntArray
    worth: FloatArray
    watts: FloatArray
    idle_w: float
    outside: IntArray
    guarded: BoolArray


@dataclass(slots=True, eq=False)
class CapFit:
    """What a cap leaves.

    Attributes:
        gpus, clock: By menu, ``[J]`` what each job has now.
        drawn_w: Watts above idle that the jobs then add to the scope.
        watt_price: Spot price of a watt, seconds per joule; 0 if the cap does not bind.
        met: Whether the limit is met.
    """

    gpus: list[IntArray]
    clock: list[IntArray]
    drawn_w: float
    watt_price: float
    met: bool


def menu_of(
    view: View,
    wish: Allocation,
    now: Allocation,
    watts: FloatArray,
    idle_w: float,
    outside: IntArray,
    guarded: BoolArray,
) -> Menu:
    """The menu of jobs that are to have what ``now`` says, where the policy wished for what ``wish`` says.

    Where the policy has no notion of worth, a job that runs as the policy wished is worth its weight per second:
    slowing a job by a tenth costs as much whether it is long or short.
    """
    count = len(view.jobs)
    worth = wish.worth
    if worth is None:
        runs = wish.gpus > 0
        step_s = np.ones(count)
        step_s[runs] = view.step_time_s[view.jobs["cost"][runs], view.count_index[wish.gpus[runs]], wish.clock[runs]]
        worth = view.jobs["weight"] * step_s
    return Menu(view, now.gpus, now.clock, worth, watts, idle_w, outside, guarded)


def drawn_w(menu: Menu) -> float:
    """Watts above idle that the jobs of a menu add to the scope as they stand."""
    return float(_Room(menu).drawn.sum())


def fit(menus: Sequence[Menu], limit_w: float) -> CapFit:
    """What jobs may have so that together they add at most ``limit_w`` ≥ 0 watts to what is drawn when all is idle."""
    limit_w += SLACK_W
    rooms = [_Room(menu) for menu in menus]
    if sum(float(room.drawn.sum()) for room in rooms) <= limit_w:
        return _answer(rooms, 0.0, limit_w)
    price = 0.0
    for guarded in (False, True):
        if _least_w(rooms, guarded) > limit_w:
            price = _shrink(rooms, limit_w, guarded)
        if _least_w(rooms, guarded) > limit_w:
            price = _pause(rooms, limit_w, guarded)
        if _least_w(rooms, guarded) <= limit_w:
            return _answer(rooms, max(price, _slow(rooms, limit_w, guarded)), limit_w)
    return _answer(rooms, price, limit_w)


class _Room:
    """A menu while it is being worked on."""

    def __init__(self, menu: Menu) -> None:
        self.menu = menu
        index = menu.view.count_index
        self.level: IntArray = np.where(menu.gpus > 0, index[menu.gpus], -1)
        self.clock = menu.clock.copy()
        count = len(menu.gpus)
        self.drawn, self.floor = np.empty(count), np.empty(count)
        self.floor_clock = np.empty(count, np.int64)
        self.look()

    def look(self) -> None:
        """Work out again what jobs add, and could add at least."""
        menu = self.menu
        current(
            menu.view.jobs["cost"],
            self.level,
            self.clock,
            menu.outside,
            menu.view.gpu_counts,
            menu.watts,
            menu.idle_w,
            self.drawn,
            self.floor,
            self.floor_clock,
        )

    def gpus(self) -> IntArray:
        """``[J]`` GPUs of each job."""
        return np.where(self.level >= 0, self.menu.view.gpu_counts[self.level], 0)


@dataclass(slots=True)
class _Ways:
    """Ways to save watts, of all rooms: which room and job, what it is to have then, watts saved, worth per watt."""

    room: IntArray
    job: IntArray
    target: IntArray
    saved: FloatArray
    slope: FloatArray


def _least_w(rooms: Sequence[_Room], guarded: bool) -> float:
    """Watts when all jobs are at their lowest clocks; the guarded ones only if it has come to that."""
    return sum(float(np.where(room.menu.guarded & (not guarded), room.drawn, room.floor).sum()) for room in rooms)


def _shrink(rooms: Sequence[_Room], limit_w: float, guarded: bool) -> float:
    need_w = _least_w(rooms, guarded) - limit_w
    found = []
    for room in rooms:
        jobs, view = room.menu.view.jobs, room.menu.view
        out = _blank(len(jobs) * len(view.gpu_counts))
        level = np.where(room.menu.guarded == guarded, room.level, -1)
        ways = fewer(
            jobs["cost"],
            level,
            room.clock,
            room.menu.outside,
            room.menu.worth,
            jobs["gpus_min"],
            jobs["listed"],
            view.gpu_counts,
            view.step_time_s,
            room.menu.watts,
            room.menu.idle_w,
            view.energy_prices,
            room.floor,
            *out,
        )
        found.append([column[:ways] for column in out])
    all_ways = _together(found)
    levels = [room.level for room in rooms]
    price = _take(rooms, all_ways, need_w, levels)
    for room, level in zip(rooms, levels, strict=True):
        changed = level != room.level
        room.level = level
        _lower_clocks(room, changed)
        room.look()
    return price


def _lower_clocks(room: _Room, changed: BoolArray) -> None:
    """A job on fewer GPUs must not add more than it did on more of them: lower its clock until it does not."""
    if not changed.any():
        return
    before = room.drawn.copy()
    for _ in range(room.menu.watts.shape[2]):
        room.look()
        over = changed & (room.drawn > before) & (room.clock > 0)
        if not over.any():
            return
        room.clock[over] -= 1


def _pause(rooms: Sequence[_Room], limit_w: float, guarded: bool) -> float:
    """Jobs that hold no GPU yet before those that do, and those that make least of a watt first, within a weight."""
    need_w = _least_w(rooms, guarded) - limit_w
    found, weights, holding = [], [], []
    for room in rooms:
        jobs, view = room.menu.view.jobs, room.menu.view
        who = np.flatnonzero((room.menu.guarded == guarded) & (room.level >= 0) & (room.floor > 0.0))
        step_s = view.step_time_s[jobs["cost"][who], room.level[who], room.floor_clock[who]]
        slope = room.menu.worth[who] / step_s / room.floor[who] - view.energy_prices[who]
        found.append([who, np.full(len(who), -1), room.floor[who], slope])
        weights.append(jobs["weight"][who])
        holding.append(jobs["gpus"][who] > 0)
    all_ways = _together(found)
    order = np.lexsort((all_ways.slope, np.concatenate(holding), np.concatenate(weights)))
    levels = [room.level for room in rooms]
    price = _take(rooms, all_ways, need_w, levels, order)
    for room, level in zip(rooms, levels, strict=True):
        room.level = level
        room.look()
    return price


def _slow(rooms: Sequence[_Room], limit_w: float, guarded: bool) -> float:
    need_w = sum(float(room.drawn.sum()) for room in rooms) - limit_w
    if need_w <= 0.0:
        return 0.0
    found, rank = [], []
    for room in rooms:
        jobs, view = room.menu.view.jobs, room.menu.view
        out = _blank(len(jobs) * len(view.clocks_mhz))
        level = room.level if guarded else np.where(room.menu.guarded, -1, room.level)
        ways = slower(
            jobs["cost"],
            level,
            room.clock,
            room.menu.outside,
            room.menu.worth,
            view.gpu_counts,
            view.step_time_s,
            room.menu.watts,
            room.menu.idle_w,
            view.energy_prices,
            *out,
        )
        found.append([column[:ways] for column in out])
        rank.append(room.menu.guarded[out[0][:ways]])
    all_ways = _together(found)
    order = np.lexsort((all_ways.slope, np.concatenate(rank)))
    clocks = [room.clock for room in rooms]
    price = _take(rooms, all_ways, need_w, clocks, order)
    for room, clock in zip(rooms, clocks, strict=True):
        room.clock = clock
        room.look()
    return price


def _take(
    rooms: Sequence[_Room], ways: _Ways, need_w: float, chosen: list[IntArray], order: IntArray | None = None
) -> float:
    """Take the cheapest ways until enough is saved; ``chosen`` gets the new places. Returns the price of the last."""
    if len(ways.job) == 0:
        return 0.0
    if order is None:
        order = np.argsort(ways.slope, kind="stable")
    sizes = [len(array) for array in chosen]
    offset = np.cumsum([0, *sizes])
    joined = np.concatenate(chosen)
    last, _ = take(order, ways.job + offset[ways.room], ways.target, ways.saved, need_w, joined, np.empty_like(joined))
    chosen[:] = [part.copy() for part in np.split(joined, offset[1:-1])]
    return max(0.0, float(ways.slope[order[last]])) if last >= 0 else 0.0


def _blank(rows: int) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    return np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty(rows), np.empty(rows)


def _together(found: Sequence[Sequence[npt.NDArray[np.generic]]]) -> _Ways:
    room = np.repeat(np.arange(len(found)), [len(columns[0]) for columns in found])
    return _Ways(room, *(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _answer(rooms: Sequence[_Room], price: float, limit_w: float) -> CapFit:
    drawn = sum(float(room.drawn.sum()) for room in rooms)
    gpus, clock = [room.gpus() for room in rooms], [room.clock for room in rooms]
    return CapFit(gpus, clock, drawn, price, drawn <= limit_w + SLACK_W)
