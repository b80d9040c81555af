"""The expressions of PromQL in the dashboard for Grafana and in the alerts for Prometheus, and what they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "powerflow.json"
RULES = DEPLOY / "prometheus" / "powerflow-alerts.yml"
SCRAPE = DEPLOY / "prometheus" / "scrape.yml"
#: What Grafana puts in place of its variables.
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
#: Words of PromQL that our expressions use, and are no metrics.
_PROMQL = {"and", "or", "unless", "sum", "count", "avg", "min", "max", "topk", "vector", "rate", "by", "on"}
_PROMQL |= {"histogram_quantile", "avg_over_time"}


@dataclass(frozen=True)
class Expression:
    """An expression, and where it stands.

    Attributes:
        where: Title of a panel or name of an alert, with the letter of the query.
        text: The expression, as Prometheus gets it.
        shown: Labels that the legend or the annotations show.
    """

    where: str
    text: str
    shown: frozenset[str]

    @property
    def metrics(self) -> set[str]:
        """All words that are neither labels nor words of PromQL."""
        rest = re.sub(r'"[^"]*"', "", self.text)
        rest = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) *\([^)]*\)", " ", rest)
        return set(re.findall(r"(?<![\w.])[a-zA-Z_]\w*", rest)) - _PROMQL

    @property
    def labels(self) -> set[str]:
        """Labels that are selected, joined, kept or shown; those that histograms have are left out."""
        groups = re.findall(r"\b(?:by|on) *\(([^)]*)\)", self.text)
        matched = re.findall(r'(\w+) *(?:=~|!=|=|!~) *"', self.text)
        return {*self.shown, *matched, *(word.strip() for group in groups for word in group.split(","))} - {"le"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[Expression]:
    return [*_of_dashboard(), *_of_alerts()]


def _of_dashboard() -> Iterator[Expression]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            shown = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield Expression(f"{panel['title']} {target['refId']}", text, shown)


def _of_alerts() -> Iterator[Expression]:
    for rule in alerts():
        shown = frozenset(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        yield Expression(rule["alert"], rule["expr"], shown)
