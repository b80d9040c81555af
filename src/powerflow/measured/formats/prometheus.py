"""Read answers of Prometheus to range queries: JSON of ``/api/v1/query_range``.

::

    {"status": "success", "data": {"resultType": "matrix", "result": [
        {"metric": {"__name__": "DCGM_FI_DEV_POWER_USAGE", "gpu": "0", "UUID": "GPU-…", "Hostname": "n1", …},
         "values": [[1767225600, "312.5"], …]}, …]}}

A file holds one answer or several, one after the other. Values are text; ``NaN`` is a missing one. A series belongs to
a GPU by its labels, and is known by the name of its metric, so the query must ask for the metric itself: ``rate()``
and ``sum()`` drop the name. Metrics, units and labels are those of `powerflow.watch.sources.gpu_exporters`.

The metric that counts iterations is the job's own. It is named by the user, or is one of `STEP_METRICS`.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import numpy as np

from powerflow.errors import InputError
from powerflow.measured.formats.format import Hints, MeasuredFormat
from powerflow.measured.recording import Quantity, RecordedGpu, Recording, Series, TimeBase, gpus_of, series_of
from powerflow.measured.values import text_of, value_of
from powerflow.trace.fields import Unusable, clip
from powerflow.watch.sources.gpu_exporters import METRICS, ExportedGpu, gpu_of

#: Names of metrics that count iterations, found where the user names none.
STEP_METRICS = (
    "train_steps_total",
    "training_steps_total",
    "trainer_steps_total",
    "train_step",
    "training_step",
    "trainer_step",
    "train_global_step",
    "trainer_global_step",
    "global_step",
)
#: Columns of `powerflow.watch.series.GpuSeries`, and the limit, by what they measure here.
_COLUMNS = {
    "power_w": Quantity.POWER,
    "energy_j": Quantity.ENERGY,
    "clock_mhz": Quantity.CLOCK,
    "utilisation": Quantity.BUSY,
    "limit_w": Quantity.LIMIT,
}
_NOT_BLANK = re.compile(r"\S")
_FORM = 'save an answer of /api/v1/query_range, such as: {"status": "success", "data": {"resultType": "matrix", …}}'


def _recognises(head: str) -> bool:
    begins = re.match(r'\s*\{\s*"(status|data|error\w*|warnings|infos)"\s*:', head)
    return begins is not None and ("resultType" in head or '"errorType"' in head)


def _read(stream: TextIO, hints: Hints) -> Recording:
    found: dict[tuple[RecordedGpu, Quantity, str], list[list[tuple[float, float]]]] = defaultdict(list)
    kinds: set[str] = set()
    counters: dict[str, list[Series]] = defaultdict(list)
    ignored: set[str] = set()
    emulated = False
    for labels, pairs in _series(text_of(stream)):
        name = labels.get("__name__", "")
        if name == hints.step_metric or (hints.step_metric is None and name in STEP_METRICS):
            if len((series := series_of(pairs)).time_s):
                counters[name].append(series)
        elif name in METRICS and METRICS[name].column in _COLUMNS:
            gpu = gpu_of(labels)
            emulated |= gpu.emulated
            kinds.update([gpu.vendor_name] if gpu.vendor_name else ())
            key = _address(gpu, name), _COLUMNS[METRICS[name].column], name
            found[key].append([(time_s, METRICS[name].factor * value) for time_s, value in pairs])
        else:
            ignored.add(name)
    if "" in ignored:
        raise InputError(
            "has a series without a name (__name__)", fix="query the metric itself, without rate(), sum() or avg()"
        )
    if not found and not counters:
        known = f"it has {', '.join(map(clip, sorted(ignored)[:4]))}" if ignored else "its result is empty"
        raise InputError(
            f"has no metric of GPUs that is known ({known})", fix="query DCGM_FI_DEV_POWER_USAGE and others"
        )
    if len(kinds) > 1:
        raise InputError(f"GPUs of several types: {', '.join(sorted(kinds))}", fix="query those of one run")
    steps, notes = _steps(counters)
    gpus, impossible = gpus_of(_one_of_each(found))
    emulation = ("the GPUs are emulated: nothing was measured",) if emulated else ()
    return Recording(gpus, TimeBase.UNIX, steps, next(iter(kinds), ""), impossible, (*notes, *emulation))


def _address(gpu: ExportedGpu, name: str) -> RecordedGpu:
    if gpu.slice:
        raise InputError(f"{name} is of a slice of a GPU (MIG), which has no watts of its own")
    if not gpu.uuid and gpu.number is None:
        raise InputError(f"{name} has no label UUID or gpu", fix="query the metric itself, without sum() or avg()")
    return RecordedGpu(gpu.node, gpu.uuid or str(gpu.number))


def _one_of_each(
    found: Mapping[tuple[RecordedGpu, Quantity, str], Sequence[list[tuple[float, float]]]],
) -> dict[tuple[RecordedGpu, Quantity], list[tuple[float, float]]]:
    """Return one list of readings for each GPU and quantity: of the metric that has most of them.

    A GPU has several series of one metric where a label changed, such as the pod; these follow each other. Series at
    the same time are of several scrapers, which would be mixed up: the longest one is taken.
    """
    metrics: dict[tuple[RecordedGpu, Quantity], list[tuple[float, float]]] = {}
    for (gpu, quantity, _), series in found.items():
        taken: list[list[tuple[float, float]]] = []
        for pairs in sorted(filter(None, series), key=len, reverse=True):
            first_s, last_s = min(pairs)[0], max(pairs)[0]
            if all(last_s < min(other)[0] or first_s > max(other)[0] for other in taken):
                taken.append(pairs)
        readings = [reading for pairs in taken for reading in pairs]
        if len(readings) > len(metrics.get((gpu, quantity), ())):
            metrics[gpu, quantity] = readings
    return metrics


def _series(text: str) -> Iterator[tuple[Mapping[str, str], list[tuple[float, float]]]]:
    """Yield the labels and the readings, (seconds, value), of each series of the answers in a file."""
    at, decoder = 0, json.JSONDecoder()
    while (begins := _NOT_BLANK.search(text, at)) is not None:
        try:
            answer, at = decoder.raw_decode(text, begins.start())
        except (ValueError, RecursionError) as error:
            what = error.msg.lower() if isinstance(error, json.JSONDecodeError) else "too deep, or too long a number"
            raise InputError(f"is not JSON ({what}, line {text.count(chr(10), 0, at) + 1})") from None
        try:
            if answer["status"] != "success":
                raise InputError(f"is an error of Prometheus: {clip(str(answer.get('error', answer['status'])), 200)}")
            data = answer["data"]
            if data["resultType"] != "matrix":
                raise InputError(f"is a {clip(str(data['resultType']))}, not a range of times", fix=_FORM)
            for series in data["result"]:
                labels = {str(name): str(value) for name, value in series["metric"].items()}
                yield labels, [(float(time_s), _number(value)) for time_s, value in series.get("values", ())]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("is not an answer of Prometheus to a range query", fix=_FORM) from None


def _number(text: object) -> float:
    try:
        return float(str(text)) if str(text) in ("+Inf", "-Inf") else value_of(str(text), "value")
    except Unusable as why:
        raise InputError(f"a {why}") from None


def _steps(counters: Mapping[str, Sequence[Series]]) -> tuple[Series | None, tuple[str, ...]]:
    if not counters:
        return None, ()
    if len(counters) > 1:
        raise InputError(f"has several step counters: {', '.join(counters)}", fix="name one with --step-metric")
    name, series = next(iter(counters.items()))
    longest = max(series, key=lambda one: len(one.time_s))
    for other in series:
        shared = np.isin(other.time_s, longest.time_s)
        mine = np.interp(other.time_s[shared], longest.time_s, longest.value)
        if shared.sum() > 1 and np.ptp(other.value[shared] - mine) > 0.05 * max(np.ptp(mine), 20.0):
            raise InputError(f"{name} has {len(series)} series that count differently", fix="query those of one run")
    many = f" (the longest of {len(series)} series, which agree)" if len(series) > 1 else ""
    return longest, (f"{name} counts the steps{many}",)


PROMETHEUS = MeasuredFormat("answer of Prometheus", _recognises, _read)
