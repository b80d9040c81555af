"""Reduce an allocation to a power cap, so that it loses as little as possible:

1. Lower clocks, first where a watt costs the least worth.
2. If the lowest clocks still draw too much, give jobs fewer GPUs, again where a watt costs the least.
3. If that still draws too much, pause jobs, those with the lowest weight first.

Guarded jobs come last in all three. The worth per watt of the last reduction is the price of a watt, in seconds per
joule as λ_E: with that price on each watt, jobs that choose their own clocks would choose the same ones. Each job's
clocks form a concave hull of worth over watts, so sorting the steps of all hulls gives the price without a search.
Raising λ_E until the policy's answer fits was tried instead: it is slower, and jobs end later (`docs/caps.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.policy.protocol import Allocation, View
from powerflow.scheduler.caps.kernel import current, fewer, slower, take

SLACK_W = 1e-6  # tolerance for rounding


@dataclass(slots=True, eq=False)
class Menu:
    """The allocation of one pool's jobs, and what is needed to reduce it.

    Attributes:
        view: What the policy saw.
        gpus, clock: ``[J]`` the allocation; it is not changed, `CapFit` has the reduced one.
        worth: ``[J]`` worth of one iteration, in seconds of weighted completion time.
        watts: ``[K, N, F]`` watts of all n GPUs, corrected by the meters.
        idle_w: Watts of one idle GPU.
        outside: ``[J]`` GPUs of each job outside the scope of the cap.
        guarded: ``[J]`` jobs that are reduced only when all others are paused.
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
    """An allocation reduced to a power cap.

    Attributes:
        gpus, clock: By menu, ``[J]`` the new allocation.
        drawn_w: Watts above idle that the jobs add to the scope.
        watt_price: Price of a watt, seconds per joule; 0 if nothing was reduced.
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
    """Return the menu for the allocation ``now``, of jobs for which the policy wished ``wish``.

    If the policy gives no worth of iterations, each job is worth its weight per second when it runs as wished: slowing
    a job down by a tenth then costs the same for long and short jobs.
    """
    worth = wish.worth
    if worth is None:
        runs = wish.gpus > 0
        step_s = np.ones(len(view.jobs))
        step_s[runs] = view.step_time_s[view.jobs["cost"][runs], view.count_index[wish.gpus[runs]], wish.clock[runs]]
        worth = view.jobs["weight"] * step_s
    return Menu(view, now.gpus, now.clock, worth, watts, idle_w, outside, guarded)


def drawn_w(menu: Menu) -> float:
    """Return the watts above idle that the allocation of a menu adds to the scope."""
    return float(_Room(menu).drawn.sum())


def fit(menus: Sequence[Menu], limit_w: float) -> CapFit:
    """Reduce allocations so that all jobs together add at most ``limit_w`` ≥ 0 watts above idle to the scope."""
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
    """A menu with the allocation as reduced so far."""

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
        """Compute the watts that each job adds now, and the fewest that it could add on as many GPUs."""
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
        """Return the GPUs of each job, ``[J]``."""
        return np.where(self.level >= 0, self.menu.view.gpu_counts[self.level], 0)


@dataclass(slots=True)
class _Ways:
    """Ways to save watts: room and job, its new clock or GPU count (as positions), watts saved, worth lost per watt."""

    room: IntArray
    job: IntArray
    target: IntArray
    saved: FloatArray
    slope: FloatArray


def _least_w(rooms: Sequence[_Room], guarded: bool) -> float:
    """Return the watts with all jobs at their lowest clocks; guarded ones keep theirs unless ``guarded``."""
    return sum(float(np.where(room.menu.guarded & (not guarded), room.drawn, room.floor).sum()) for room in rooms)


def _shrink(rooms: Sequence[_Room], limit_w: float, guarded: bool) -> float:
    """Give jobs fewer GPUs, and return the price of the last watt saved."""
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
    """Lower the clocks of jobs that draw more on fewer GPUs than before, until they do not."""
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
    """Pause jobs, and return the price of the last watt saved.

    Order: lowest weight first; within a weight jobs that do not run yet, then those with the least worth per watt.
    """
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
    """Lower clocks, and return the price of the last watt saved."""
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
    """Take the cheapest ways until ``need_w`` is saved, write them to ``chosen``, and return the price of the last."""
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
