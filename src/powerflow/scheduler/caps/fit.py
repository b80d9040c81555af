"""Reduce an allocation to a power cap, so that it loses as little as possible:

1. Lower clocks, first where each watt saved loses the least worth.
2. If jobs draw too much even at the lowest clocks, give jobs fewer GPUs, first where each watt saved loses the least
   worth.
3. If jobs still draw too much, pause jobs, first the jobs with the lowest weight. Jobs whose GPUs another scheduler has
   given to them cannot be paused.

Guarded jobs, such as protected jobs, come last in all three steps. The worth that the last reduction loses per watt is
the price of a watt, in seconds per joule like the energy price λ_E. If each job paid this price for its watts and chose
its clock for itself, it would choose the same clock. For each job, only those clocks matter that lie on the concave
hull of worth over watts. So the steps of all jobs, sorted by worth lost per watt, give the price without a search.
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
    """Allocation of the J jobs of one pool, and all numbers that are needed to reduce it to a power cap.

    Attributes:
        view: The `View` that the policy was given.
        gpus, clock: ``[J]`` the allocation. It is not changed; the reduced allocation is in `CapFit`.
        worth: ``[J]`` worth of one iteration of each job, in seconds of weighted completion time.
        watts: ``[K, N, F]`` (classes × GPU counts × clocks) watts of all GPUs of a job, corrected by metered power.
        idle_w: Watts of one idle GPU.
        outside: ``[J]`` how many GPUs each job has outside the nodes of the cap.
        guarded: ``[J]`` jobs that are reduced only when all other jobs are reduced as far as possible.
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
    """Allocations that were reduced to a power cap.

    Attributes:
        gpus, clock: For each pool (`Menu`), ``[J]`` the new GPU counts and clocks of its J jobs.
        drawn_w: Watts above idle that all jobs add on the nodes of the cap.
        watt_price: Price of a watt, seconds per joule like the energy price λ_E; 0 if no job got fewer GPUs or a lower
            clock.
        met: True if the jobs stay within the cap.
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
    """Return the allocation of one pool together with all numbers that are needed to reduce it to a power cap.

    If the policy does not say what an iteration is worth, a job on the GPUs and clock that the policy wants is worth
    its weight per second. So slowing a job down by a tenth costs the same for long and short jobs.

    Args:
        view: The `View` that the policy was given.
        wish: The allocation that the policy wants.
        now: The allocation to reduce.
        watts, idle_w, outside, guarded: As for `Menu`.
    """
    worth = wish.worth
    if worth is None:
        runs = wish.gpus > 0
        step_s = np.ones(len(view.jobs))
        step_s[runs] = view.step_time_s[view.jobs["cost"][runs], view.count_index[wish.gpus[runs]], wish.clock[runs]]
        worth = view.jobs["weight"] * step_s
    return Menu(view, now.gpus, now.clock, worth, watts, idle_w, outside, guarded)


def drawn_w(menu: Menu) -> float:
    """Return the watts above idle that the allocation of one pool's jobs adds on the nodes of the power cap."""
    return float(_Room(menu).drawn.sum())


def fit(menus: Sequence[Menu], limit_w: float) -> CapFit:
    """Return allocations reduced so that all jobs together add at most ``limit_w`` watts on the nodes of a power cap.

    Args:
        menus: The allocation of each pool.
        limit_w: Watts above idle that all jobs together may add on these nodes, ≥ 0.
    """
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
            break
    # if it cannot be met, this lowers all clocks as far as possible
    return _answer(rooms, max(price, _slow(rooms, limit_w, guarded)), limit_w)


class _Room:
    """Hold the allocation of one pool's jobs as it is reduced so far."""

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
        """Compute the watts that each job adds now, and the fewest watts that it could add on the same GPU count."""
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
        """Return the GPU counts of the J jobs, ``[J]``, as reduced so far; 0 for a job without GPUs."""
        return np.where(self.level >= 0, self.menu.view.gpu_counts[self.level], 0)


@dataclass(slots=True)
class _Ways:
    """List ways to save watts, one per position of the arrays.

    Attributes:
        room, job: The pool (as a position) and the job (as a row).
        target: Position of the new clock, or of the new GPU count.
        saved: Watts saved.
        slope: Worth lost per watt saved.
    """

    room: IntArray
    job: IntArray
    target: IntArray
    saved: FloatArray
    slope: FloatArray


def _least_w(rooms: Sequence[_Room], guarded: bool) -> float:
    """Return the watts that all jobs add with clocks as low as possible.

    Guarded jobs, which are reduced last, keep their present clocks unless ``guarded`` is true.
    """
    return sum(float(np.where(room.menu.guarded & (not guarded), room.drawn, room.floor).sum()) for room in rooms)


def _shrink(rooms: Sequence[_Room], limit_w: float, guarded: bool) -> float:
    """Give jobs fewer GPUs, and return how much worth the last way to save watts loses per watt."""
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
    """Lower the clocks of jobs that draw more watts on fewer GPUs than before, until these jobs do not draw more."""
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
    """Pause jobs, and return how much worth the last pause loses per watt.

    Jobs with the lowest weight are paused first; among these, first jobs that do not run yet, then jobs that lose the
    least worth per watt.
    """
    need_w = _least_w(rooms, guarded) - limit_w
    found, weights, holding = [], [], []
    for room in rooms:
        jobs, view = room.menu.view.jobs, room.menu.view
        who = np.flatnonzero((room.menu.guarded == guarded) & ~jobs["given"] & (room.level >= 0) & (room.floor > 0.0))
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
    """Lower clocks, and return how much worth the last lower clock loses per watt."""
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
    """Take ways to save watts until ``need_w`` is saved, cheapest first, and return the worth per watt of the last way.

    Args:
        rooms: The pools.
        ways: All ways to save watts.
        need_w: Watts to save.
        chosen: For each pool, the position of each job's clock or GPU count; the new positions are written there.
        order: Positions of the ways, first to last; None sorts the ways by worth lost per watt.
    """
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
