"""Read the history of a run of Weights & Biases, with its system metrics, as CSV or as JSON lines.

``run.history(stream="events")`` returns the system metrics, a row every 15 s or so; ``run.history()`` what the script
logged. Both can be written with ``to_csv`` or ``to_json(orient="records", lines=True)``, and are given together; a file
may also hold both. Columns read here (`system.` may be missing):

==========================================  =====================================================================
``_timestamp``                              seconds since 1970; without it ``_runtime``, seconds since the start
``_step``, or the script's own counter      iterations; the script's own is preferred (`STEP_COLUMNS`), because
                                            ``_step`` counts calls of ``wandb.log`` unless the script sets it
``system.gpu.process.I.powerWatts``         watts of GPU I; ``process`` marks GPUs that the run uses, so GPUs
                                            without it are left out where it is there
``system.gpu.I.smClock``                    MHz
``system.gpu.I.enforcedPowerLimitWatts``    power limit, watts
``system.gpu.I.gpu``                        utilisation, percent
==========================================  =====================================================================

The GPU type, the number of nodes and the batch are not in the history. In a run of several nodes it has the GPUs of the
first one.

Source: wandb/wandb, gpu_stats/src/gpu_nvidia.rs; https://docs.wandb.ai/models/ref/python/experiments/system-metrics
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Quantity, RecordedGpu, Recording, Series, TimeBase, gpus_of, series_of
from powerflow.measured.values import JsonLines, Table, value_of
from powerflow.trace.fields import Unusable
from powerflow.trace.formats.format import header_of

#: Columns that count iterations, the best one first, found where the user names none.
STEP_COLUMNS = ("train/global_step", "trainer/global_step", "global_step", "_step")
_GPU = re.compile(r"(?:system\.)?gpu\.(?P<process>process\.)?(?P<id>\d+)\.(?P<metric>\w+)")
_METRICS = {
    "powerWatts": (Quantity.POWER, 1.0),
    "smClock": (Quantity.CLOCK, 1.0),
    "enforcedPowerLimitWatts": (Quantity.LIMIT, 1.0),
    "gpu": (Quantity.BUSY, 0.01),
}
_TIMES = {TimeBase.UNIX: "_timestamp", TimeBase.RELATIVE: "_runtime"}
_TIME_NAMES = frozenset(_TIMES.values())


def _is_csv(head: str) -> bool:
    return bool(set(header_of(head)) & _TIME_NAMES)


def _is_json(head: str) -> bool:
    first = next((line for line in head.splitlines() if line.strip()), "")
    return first.lstrip().startswith("{") and any(f'"{name}":' in first.replace(" ", "") for name in _TIME_NAMES)


def _read(rows: Table | JsonLines, hints: Hints) -> Recording:
    readings: dict[tuple[RecordedGpu, Quantity], list[tuple[float, float]]] = defaultdict(list)
    counters: dict[str, list[tuple[float, float]]] = defaultdict(list)
    base: TimeBase | None = None
    used: set[str] = set()
    wanted = STEP_COLUMNS if hints.step_metric is None else (hints.step_metric,)
    for row in rows:
        if base is None:
            base = next((kind for kind, name in _TIMES.items() if name in row), None)
        if base is None:
            raise InputError("has neither _timestamp nor _runtime", fix="write run.history() as it is")
        try:
            time_s = value_of(row.get(_TIMES[base], ""), _TIMES[base])
            for name in wanted:
                if name in row:
                    counters[name].append((time_s, value_of(row[name], name)))
            for name, text in row.items():
                if (column := _column(name)) is not None:
                    gpu, quantity, scale, of_run = column
                    readings[gpu, quantity].append((time_s, scale * value_of(text, name)))
                    if of_run and text:
                        used.add(gpu.name)
        except Unusable as why:
            rows.skip(str(why))
    if base is None:
        raise InputError("holds no row")
    gpus, impossible = gpus_of(readings)
    others = sorted(gpu.name for gpu in gpus if used and gpu.name not in used)
    steps, notes = _steps(counters)
    if others:
        notes = (*notes, f"GPUs {', '.join(others)} are not used by the run: left out")
    if not gpus and steps is None:
        raise InputError("has neither steps nor watts of GPUs", fix='write run.history(stream="events") for the watts')
    return Recording(
        {gpu: of for gpu, of in gpus.items() if gpu.name not in others},
        base,
        steps,
        damaged={"that cannot be read": rows.damaged} | impossible,
        notes=notes,
    )


@lru_cache(maxsize=4096)
def _column(name: str) -> tuple[RecordedGpu, Quantity, float, bool] | None:
    """Return what a column holds: GPU, quantity, factor to its unit, whether the run uses this GPU; None for others."""
    found = _GPU.fullmatch(name)
    if found is None or found["metric"] not in _METRICS:
        return None
    return RecordedGpu("", found["id"]), *_METRICS[found["metric"]], found["process"] is not None


def _steps(counters: Mapping[str, list[tuple[float, float]]]) -> tuple[Series | None, tuple[str, ...]]:
    found = ((name, series_of(pairs)) for name, pairs in counters.items())
    known = {name: series for name, series in found if len(series.time_s) > 1}
    name = next((name for name in (*STEP_COLUMNS, *known) if name in known), None)
    if name is None:
        return None, ()
    if name != "_step":
        return known[name], (f"{name} counts the steps",)
    calls = "_step counts the steps; if the script does not set it, it counts calls of wandb.log"
    return known[name], (f"{calls}: then name the script's own counter with --step-metric",)


WANDB_CSV = MeasuredFormat("W&B history", _is_csv, lambda stream, hints: _read(Table(stream), hints))
WANDB_JSON = MeasuredFormat("W&B history", _is_json, lambda stream, hints: _read(JsonLines(stream), hints))
