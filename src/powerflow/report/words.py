"""Choose words for the readers of a report: names of policies, units of time, file names without folders."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from powerflow.simulate.comparison import OURS, Comparison, EqualEnergyRow
from powerflow.units import DAY_S, HOUR_S

_LABELS = {"fifo": "FIFO", "srtf": "SRTF", "qssf": "QSSF", "afs": "AFS-L"}
_PROPER = ("tiresias", "gandiva", "optimus", "pollux")


def label(policy: str) -> str:
    """Return the name of a policy as text shows it: ``fifo`` becomes FIFO; options do not change."""
    base = base_name(policy)
    return _LABELS.get(base, base.capitalize() if base in _PROPER else base) + policy[len(base) :]


def named(policy: str) -> str:
    """Return the name of a policy as a sentence says it: SRTF, Gandiva, the policy “greedy”, PowerFlow's “prices”."""
    base, shown = base_name(policy), label(policy)
    if base in _LABELS or base in _PROPER:
        return shown
    return f"PowerFlow's “{shown}”" if base == OURS else f"the policy “{shown}”"


def base_name(policy: str) -> str:
    """Return the name of a policy without its options: "srtf" for "srtf+clock:1005"."""
    return re.split(r"[+:]", policy, maxsplit=1)[0]


def time_unit(seconds: Sequence[float], *, long: bool = False) -> tuple[str, float]:
    """Return the name of a suitable unit of time for some durations, and its length in seconds.

    The unit can be days only if ``long`` is True.
    """
    finite = [value for value in seconds if math.isfinite(value)]
    typical = max(finite, default=HOUR_S)
    if long and typical > 10 * DAY_S:
        return "days", DAY_S
    if typical < 120:
        return "s", 1.0
    return ("min", 60.0) if typical < 3 * HOUR_S else ("hours", HOUR_S)


def subject_of(comparison: Comparison) -> str | None:
    """Return the name of the policy that a page is about.

    It is `OURS` if `OURS` was compared; otherwise the fastest policy at the highest energy level. The result is None if
    no policy was compared.
    """
    policies = {row.policy for row in comparison.rows} | {line.policy for line in comparison.frontiers}
    if OURS in policies:
        return OURS
    met = [row for row in comparison.rows if mean(row, "jct_mean_s") is not None]
    best = min(met, key=lambda row: (-row.level, mean(row, "jct_mean_s") or 0.0), default=None)
    return best.policy if best else min(policies, default=None)


def mean(row: EqualEnergyRow | None, metric: str) -> float | None:
    """Return the mean over seeds of one metric in a table row; None if the row does not have it."""
    if row is None or row.metrics is None or metric not in row.metrics:
        return None
    value = row.metrics[metric].mean
    return value if math.isfinite(value) else None


def without_folders(text: str) -> str:
    """Shorten every absolute path in ``text`` to its file name, because a report is read on other machines."""
    return re.sub(r"(?<![\w/.:])~?/(?:[^\s/'\",;]+/)+([^\s/'\",;]*)", r"\1", text)


def cleaned(facts: Mapping[str, str]) -> dict[str, str]:
    """Return the facts of a report with each absolute path shortened to its file name."""
    return {without_folders(str(key)): without_folders(str(value)) for key, value in facts.items()}
