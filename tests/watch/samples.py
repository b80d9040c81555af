"""What a Prometheus has stored, for tests that need none: it answers range selectors as Prometheus does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from powerflow.watch.sources.prometheus_api import Answer

_QUERY = re.compile(r'\{__name__=~"(.*)"\}\[(\d+)ms\]')


@dataclass
class StoredSamples:
    """Stored samples by the labels of their series.

    Attributes:
        series: For each series its labels and its samples: time (Unix seconds), value, and when it could first be read.
        asked: Begin and end of each request, Unix seconds.
        warnings, ahead_s: As in `Answer`.
    """

    series: list[tuple[Mapping[str, str], list[tuple[float, float, float]]]] = field(default_factory=list)
    asked: list[tuple[float, float]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    ahead_s: float = 0.0
    name: str = "Prometheus at http://prom:9090"

    def add(self, labels: str, samples: Iterable[tuple[float, float]], **more: str) -> StoredSamples:
        """Add a series, with its labels as Prometheus shows them: ``up{job="a"}``; more labels by name."""
        name, _, rest = labels.partition("{")
        named = {"__name__": name, **dict(re.findall(r'(\w+)="([^"]*)"', rest)), **more}
        self.series.append((named, [(at, value, at) for at, value in samples]))
        return self

    def ask(self, query: str, at_s: float) -> Answer:
        found = _QUERY.fullmatch(query)
        assert found is not None, query
        since_s = at_s - int(found[2]) / 1000
        self.asked.append((since_s, at_s))
        names = re.compile(found[1])
        result: list[dict[str, Any]] = []
        for labels, samples in self.series:
            values = [[at, repr(float(value))] for at, value, seen in samples if since_s <= at <= at_s and seen <= at_s]
            if values and names.fullmatch(labels["__name__"]):
                result.append({"metric": labels, "values": values})
        return Answer(result, self.warnings, self.ahead_s)
