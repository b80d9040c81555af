"""Make rows of the table of observations from totals, for each run that the user tells apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from powerflow.cost.observation import ObservationRow
from powerflow.errors import InputError
from powerflow.measured.point import STEPS, observation_row
from powerflow.measured.recording import Total, Totals
from powerflow.measured.source import MeasuredFile, MeasuredSource
from powerflow.measured.told import RunFacts, Told
from powerflow.measured.totals import check_nesting, grouped, joined, possible, summary
from powerflow.trace.fields import clip


def rows_of_totals(
    files: Sequence[MeasuredFile], told: Told, runs: Sequence[RunFacts]
) -> Iterator[tuple[list[ObservationRow], MeasuredSource]]:
    """Yield the rows that totals give, for each run, and the source."""
    spans: dict[int, list[tuple[str, Total]]] = {}
    without = 0
    seen: set[str] = set()
    for file in files:
        assert isinstance(file.content, Totals)
        for span in file.content.spans:
            seen.update(span.names)
            number = _run_of(file.path, span, runs)
            if number is None:
                without += 1
            else:
                spans.setdefault(number, []).append((file.name, span))
    for run in runs:
        if run.window and run.window not in seen and files:
            has = ", ".join(clip(name) for name in sorted(seen)[:5])
            raise InputError(f"no window or run is named {clip(run.window)}", where=run.where, fix=f"there are {has}")
    if not spans and files:
        raise InputError("no row of --runs is for it", where=files[0].name, fix="add a row with its name in files")
    for number, mine in sorted(spans.items()):
        facts = runs[number].told.over(told) if runs else told
        yield _of_one_run(mine, [file for file in files if file.name in {name for name, _ in mine}], facts, without)
        without = 0


def _run_of(path: Path, span: Total, runs: Sequence[RunFacts]) -> int | None:
    """Return the number of the row of the table of runs that a total belongs to; None if there is no such row."""
    if not runs:
        return 0
    mine = [number for number, run in enumerate(runs) if run.has(path) and not (run.start or run.end)]
    named = [number for number in mine if runs[number].window and runs[number].window in span.names]
    found = named or [number for number in mine if not runs[number].window]
    if len(found) > 1:
        what = f"{clip(span.names[0])} is also of the row {runs[found[0]].where}"
        raise InputError(what, where=runs[found[1]].where, fix="tell them apart by files or window")
    return found[0] if found else None


def _of_one_run(
    spans: list[tuple[str, Total]], files: Sequence[MeasuredFile], told: Told, without: int
) -> tuple[list[ObservationRow], MeasuredSource]:
    contents = [file.content for file in files if isinstance(file.content, Totals)]
    count = len(spans)
    spans, why = possible(spans)
    check_nesting(spans)
    whole, repeated, notes = joined(spans, told)
    left_out: Counter[str] = Counter(
        {why: count - len(spans), "that count a node again": repeated, "without a row in --runs": without}
    )
    said = dict.fromkeys([*notes, *(note for content in contents for note in content.notes)])
    hint = next((f"; {content.steps_hint}" for content in contents if content.steps_hint), "")
    unit = "windows" if all(span.machine is None and not span.of_epoch for _, span in spans) else "rows"
    rows, used = [], 0
    for name, group in grouped(whole):
        place = f"{name}: {group[0].names[0]}" if len(group) > 1 else f"{name}: {group[0].where}"
        found = summary(group, told, place)
        row, more = observation_row(found.point, told, "--samples" if group[0].of_epoch else f"{STEPS}{hint}")
        rows.append(row)
        used += found.used
        left_out.update(found.left_out)
        said |= dict.fromkeys(more)
    for content in contents:
        left_out.update(content.damaged)
    names = ", ".join(file.name for file in files)
    known = {why: count for why, count in left_out.items() if count}
    return rows, MeasuredSource(names, files[0].title, len(rows), used, unit, known, tuple(said))
