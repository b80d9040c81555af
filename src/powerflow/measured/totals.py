"""Turn totals (energy and duration of windows and runs) into points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from powerflow.device.plausible import MEAN_MARGIN, MOST_W
from powerflow.errors import InputError
from powerflow.measured.point import Point
from powerflow.measured.recording import Total
from powerflow.measured.told import Told

#: The first windows of one kind are warm-up while they are longer than the usual one by this factor.
WARM = 1.25
#: A window that is longer than the usual one by this factor has a pause in it.
PAUSE = 3.0
#: Fewest windows of one kind among which warm-up and pauses are looked for.
FEWEST = 4
#: Highest mean watts of a GPU over a span that are believed.
MOST_MEAN_W = MEAN_MARGIN * MOST_W
#: Two spans are at one time if they share this part of the shorter one.
_OVERLAP = 0.5
#: Rows of a machine count the same GPUs if their watts agree within this share.
_AGREE = 0.02


@dataclass(frozen=True, slots=True)
class TotalsPoint:
    """Totals of one configuration as one point.

    Attributes:
        point: The point.
        used: How many totals are in it.
        left_out: How many are not, by reason.
        notes: What the user should know of it.
    """

    point: Point
    used: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...] = ()


def possible(spans: Sequence[tuple[str, Total]]) -> tuple[list[tuple[str, Total]], str]:
    """Return the totals of which the watts can be true, and why others are left out.

    Args:
        spans: Totals, each with the name of its file; at least one.

    Raises:
        InputError: Not one of them can be true.
    """
    found = [one for one in spans if _gpu_w(one[1]) <= MOST_MEAN_W]
    why = f"with more than {MOST_MEAN_W:,.0f} W a GPU"
    if not found:
        file, span = spans[0]
        what = f"{span.where} has {_gpu_w(span):,.0f} W a GPU on average, more than {MOST_MEAN_W:,.0f} W"
        raise InputError(
            f"{what}{f'; so have all {len(spans)}' if len(spans) > 1 else ''}",
            where=file,
            fix="check the unit of its energy, and that its time is that of the whole row",
        )
    return found, why


def _gpu_w(span: Total) -> float:
    """Return the mean watts of one GPU of a total; 0 where their number is not known."""
    return span.energy_j / span.duration_s / span.gpus if span.gpus else 0.0


def summary(spans: Sequence[Total], told: Told, where: str, notes: tuple[str, ...] = ()) -> TotalsPoint:
    """Return one point from the totals of one configuration.

    Args:
        spans: Totals with the same name, limit and batch; at least one.
        told: What the user says of them.
        where: Place for the point: the file and the window.
        notes: What the user should know of the totals.

    Raises:
        InputError: The totals are of several whole runs, which may differ in more than their times.
    """
    first = spans[0]
    if first.machine is not None and len(spans) > 1:
        raise InputError(
            f"holds {len(spans)} runs named {first.names[0]!r}, at different times",
            where=where,
            fix="choose by a row of --runs with the run_id in the column window",
        )
    lasts_s = np.array([span.duration_s for span in spans])
    warm = paused = np.zeros(len(spans), bool)
    if len(spans) >= FEWEST:
        usual_s = float(np.median(lasts_s))
        warm = np.logical_and.accumulate(lasts_s > WARM * usual_s)
        paused = ~warm & (lasts_s > PAUSE * usual_s)
    keep = ~(warm | paused)
    duration_s = float(lasts_s[keep].sum())
    energy_j = sum(span.energy_j for span, kept in zip(spans, keep, strict=True) if kept)
    steps, step_time_s = _steps(first, told), told.step_time_s
    if step_time_s is None and steps is not None:
        step_time_s = duration_s / (steps * int(keep.sum()))
    point = Point(
        where=where,
        step_time_s=step_time_s,
        power_w=energy_j / duration_s,
        gpus=first.gpus,
        model=first.model,
        gpu_type=first.gpu_type,
        local_batch=first.local_batch,
        limit_w=first.limit_w,
    )
    left_out = {"in warm-up": int(warm.sum()), "with a pause": int(paused.sum())}
    return TotalsPoint(point, int(keep.sum()), left_out, notes)


def grouped(spans: Sequence[tuple[str, Total]]) -> list[tuple[str, list[Total]]]:
    """Return totals, each with the name of its file, in groups of one file and one configuration."""
    groups: dict[tuple[object, ...], tuple[str, list[Total]]] = {}
    for file, span in spans:
        key = (file, span.names[0], span.model, span.gpu_type, span.gpus, span.limit_w, span.local_batch)
        groups.setdefault(key, (file, []))[1].append(span)
    return list(groups.values())


def check_nesting(spans: Sequence[tuple[str, Total]]) -> None:
    """Refuse windows of different names that lie in one another, which would be counted twice.

    Raises:
        InputError: Two such windows of a file overlap in time.
    """
    windows = sorted((one for one in spans if one[1].machine is None), key=lambda one: (one[0], one[1].start_s))
    for (file, one), (other, then) in pairwise(windows):
        ends_s = one.start_s + one.duration_s - 1e-3
        if file == other and one.names[0] != then.names[0] and then.start_s < ends_s:
            raise InputError(
                f"windows {one.names[0]!r} and {then.names[0]!r} overlap in time",
                where=file,
                fix="choose one of them by a row of --runs with its name in the column window",
            )


def joined(spans: Sequence[tuple[str, Total]], told: Told) -> tuple[list[tuple[str, Total]], int, tuple[str, ...]]:
    """Join spans at one time: of the ranks of a job, each with its own GPUs, or each with all GPUs of its node.

    Args:
        spans: Totals, each with the name of its file.
        told: What the user says of them.

    Returns:
        The spans, how many rows count a node that another row counts too, and notes.

    Raises:
        InputError: It is not clear which rows count the same GPUs.
    """
    found, repeated = [], 0
    notes: dict[str, None] = {}
    for together in _at_one_time(spans):
        file, first = together[0]
        rows = [span for _, span in together]
        nodes = len(rows)
        if first.machine is not None and len(rows) > 1:
            nodes = _nodes(rows, told, file)
            repeated += len(rows) - nodes
            if nodes < len(rows):
                what = (
                    f"{len(rows)} rows at one time each count all {first.gpus} GPUs of a node (a tracker in each rank)"
                )
                notes[f"{what}: counted as {nodes} node{'s' * (nodes > 1)}, not as {len(rows)}"] = None
        elif len(rows) > 1:
            notes[f"windows of {len(rows)} files at one time are joined, as of the ranks of one job"] = None
        lasts_s = max(span.duration_s for span in rows)
        watts = [span.energy_j / span.duration_s for span in rows]
        one = replace(
            first,
            start_s=min(span.start_s for span in rows),
            duration_s=lasts_s,
            energy_j=sum(watts) * nodes / len(rows) * lasts_s,
            gpus=None if first.gpus is None else first.gpus * nodes,
        )
        found.append((file, one if len(rows) > 1 else first))
    return found, repeated, tuple(notes)


def _steps(span: Total, told: Told) -> float | None:
    """Return the iterations of one span; None if they are not known."""
    if not span.of_epoch:
        return told.steps
    if told.steps is not None:
        raise InputError("has seconds per epoch", where="--steps", fix="give --samples: the samples of one epoch")
    local_batch = told.local_batch or span.local_batch
    if told.samples is None or local_batch is None:
        return None
    return told.samples / (local_batch * (told.gpus or span.gpus or 1) * (told.accumulation or 1))


def _nodes(together: Sequence[Total], told: Told, where: str) -> int:
    """Return on how many nodes ranks ran that each counted a whole node."""
    each, rows = together[0].gpus or 1, len(together)
    lines = f"{rows} rows ({together[0].where} to {together[-1].where}) are at one time, each of {each} GPUs"
    if told.gpus is not None:
        nodes, rest = divmod(told.gpus, each)
        if rest or nodes < 1 or rows % nodes:
            raise InputError(f"{lines}; {told.gpus} GPUs are said", where=where, fix="keep one row of each node")
        return nodes
    watts = [span.energy_j / span.duration_s for span in together]
    if max(watts) > (1.0 + _AGREE) * min(watts):
        what = f"{lines}, with {min(watts):.0f} to {max(watts):.0f} W: ranks of one node, or several nodes?"
        raise InputError(what, where=where, fix="give --gpus: all GPUs of the run")
    return 1


def _at_one_time(spans: Sequence[tuple[str, Total]]) -> list[list[tuple[str, Total]]]:
    """Return spans of one name in groups that overlap in time, each with its file; in order of time.

    Spans of unknown time stay alone.
    """
    groups: list[list[tuple[str, Total]]] = []
    last: dict[object, list[tuple[str, Total]]] = {}
    for file, span in sorted(spans, key=lambda one: (one[1].start_s != one[1].start_s, one[1].start_s)):
        key = (span.names[0], span.limit_w, span.machine, span.gpus)
        group = last.get(key)
        if group is not None:
            first = group[0][1]
            shared_s = min(first.start_s + first.duration_s, span.start_s + span.duration_s) - span.start_s
            if shared_s >= _OVERLAP * min(first.duration_s, span.duration_s):
                group.append((file, span))
                continue
        last[key] = [(file, span)]
        groups.append(last[key])
    return groups
