"""Keep the cost tables of one pool in arrays that policies index by class."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.cost.table import Axes, CostTable


class CostTables:
    """Keep the cost tables of one pool as ``[K, N, F]`` arrays: K rows for classes, N GPU counts, F clocks.

    When a table changes, new arrays replace the old arrays, whose values never change.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._row: dict[Hashable, int] = {}
        self._pending: dict[int, CostTable | None] = {}
        self._latest: dict[str, CostTable] = {}
        self._only: dict[str, dict[int, tuple[int, ...]]] = {}  # by class and row: the GPU counts of `row(only=…)`
        shape = (0, len(axes.gpu_counts), len(axes.clocks_mhz))
        self._step_time_s: FloatArray = np.empty(shape)
        self._spread_step_time_s: FloatArray = np.empty(shape)
        self._power_w: FloatArray = np.empty(shape)
        self._margin: FloatArray = np.empty(shape)

    def row(self, cost_class: str, only: tuple[int, ...] | None = None) -> int:
        """Return the index of the row of a class in this table. A new class gets a new row.

        As long as the costs of a class are unknown, its row says that it cannot run on any GPU count.

        Args:
            cost_class: The class.
            only: GPU counts. If given, the class has a separate row, in which it can run on these counts only.
        """
        key: Hashable = cost_class if only is None else (cost_class, only)
        row = self._row.get(key)
        if row is None:
            row = self._row[key] = len(self._row)
            self._pending[row] = self._latest.get(cost_class)
            if only is not None:
                self._only.setdefault(cost_class, {})[row] = only
        return row

    def learn(self, cost_class: str, table: CostTable) -> None:
        """Set the believed costs of a class.

        Raises:
            ValueError: The table has another number of GPU counts or clocks than the pool.
        """
        shape = (len(self.axes.gpu_counts), len(self.axes.clocks_mhz))
        if table.step_time_s.shape != shape or table.power_w.shape != shape:
            raise ValueError(
                f"cost table of {cost_class!r} has shape {table.step_time_s.shape}; "
                f"pool {self.axes.gpu_type} has {shape}"
            )
        self._latest[cost_class] = table
        for row in (self.row(cost_class), *self._only.get(cost_class, ())):
            self._pending[row] = table

    def arrays(self) -> tuple[FloatArray, FloatArray]:
        """Return step times (s) and powers (W), as arrays of K classes × N GPU counts × F clocks.

        The step times are those of packed jobs. The powers are those of all GPUs of a job together.
        """
        if self._pending:
            _, counts, clocks = self._step_time_s.shape
            step_time_s = np.full((len(self._row), counts, clocks), np.inf)
            spread_step_time_s = step_time_s.copy()
            power_w = np.zeros((len(self._row), counts, clocks))
            margin = np.ones((len(self._row), counts, clocks))
            known = len(self._step_time_s)
            step_time_s[:known] = self._step_time_s
            spread_step_time_s[:known] = self._spread_step_time_s
            power_w[:known] = self._power_w
            margin[:known] = self._margin
            for row, table in self._pending.items():
                if table is not None:
                    step_time_s[row] = table.step_time_s
                    spread_step_time_s[row] = table.spread_step_time_s
                    power_w[row] = table.power_w
                    margin[row] = 1.0 if table.margin is None else table.margin
            for rows in self._only.values():
                for row, only in rows.items():
                    others = ~np.isin(self.axes.gpu_counts, only)
                    step_time_s[row, others] = spread_step_time_s[row, others] = np.inf
            self._step_time_s, self._spread_step_time_s, self._power_w = step_time_s, spread_step_time_s, power_w
            self._margin = margin
            self._pending.clear()
        return self._step_time_s, self._power_w

    def margin(self) -> FloatArray:
        """Return the largest factors (≥ 1) by which real step times may exceed believed ones.

        Their shape is K classes × N GPU counts × F clocks.
        """
        self.arrays()
        return self._margin

    def spread_step_time_s(self) -> FloatArray:
        """Return step times (s) of jobs on more nodes than they need: K classes × N GPU counts × F clocks."""
        self.arrays()
        return self._spread_step_time_s
