"""A real Prometheus scrapes a controller with emulated GPUs and jobs: what the dashboard and the alerts ask of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import yaml

from powerflow.api.records import Role
from powerflow.cli.main import main
from powerflow.service.tokens import create_token
from tests.cli.serving import SERVE, with_tables
from tests.cli.test_serve import processes_of
from tests.grafana.expressions import RULES, SCRAPE, Expression, alerts, expressions
from tests.watch.exporter import PROMETHEUS, prometheus_with

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="there is no prometheus (Debian: prometheus)")

#: A job that writes a step ten times a second, and does nothing else.
JOB = r"""
run: 'i=0; while sleep 0.1; do i=$((i+1)); echo "step $i"; done'
progress: 'step (?P<step>\d+)'
gpus: 2
work: {iterations: 100000}
"""
#: Watts of parts of the cluster that have a cap of their own.
EMPTY_WITHOUT_SUCH_A_CAP = "Power against caps C"


@contextmanager
def controller(folder: Path) -> Iterator[tuple[Path, str]]:
    """Run a controller with two jobs, a budget, a cap and a tariff; yield its state folder and its address."""
    state, spec = with_tables(folder / "state"), folder / "job.yaml"
    spec.write_text(JOB)
    command = [*SERVE, "--state-dir", str(state), "--emulate", "2x2:A100", "--port", "0", "--on-exit", "drain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            said = re.search(r"http://([\d.:]+\d)", process.stdout.readline())
            assert said is not None
            where = ["--state-dir", str(state)]
            for order in ("budget set 100kWh --per day", "cap set 1500W", "signal set tariff 0.3"):
                assert main([*order.split(), *where]) == 0
            for _ in range(2):
                assert main(["submit", str(spec), "--output", "none", *where]) == 0
            yield state, said[1]
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120.0)
            finally:
                for pid in processes_of(state):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has our rules and our scrape file, but asks every half second."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        state, address = stack.enter_context(controller(folder))
        site = folder / "prometheus"
        site.mkdir()
        (site / "token").write_text(create_token(state / "tokens.json", "prometheus", Role.VIEWER) + "\n")
        config = yaml.safe_load(SCRAPE.read_text())
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"][0]["targets"] = [address]
        scrape["authorization"]["credentials_file"] = str(site / "token")
        scrape["scrape_interval"] = "500ms"
        config["global"] = {"evaluation_interval": "500ms", "scrape_timeout": "500ms"}
        (site / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(RULES, site)
        yield stack.enter_context(prometheus_with(site / "prometheus.yml"))


def ask(url: str, path: str, **query: str) -> Any:
    """Ask Prometheus; return its data, or fail with what it says."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request("GET", f"/api/v1/{path}?{urlencode(query)}")
        answer = json.loads(connection.getresponse().read())
    assert answer["status"] == "success", (query, answer)
    return answer["data"]


def answered(url: str, wanted: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Ask until each expression has an answer, or nothing more came for a minute."""
    found: dict[str, list[dict[str, Any]]] = {}
    until = time.monotonic() + 60.0
    while len(found) < len(wanted) and time.monotonic() < until:
        for where in wanted.keys() - found.keys():
            result = ask(url, "query", query=wanted[where])["result"]
            if result and not any(series["value"][1] == "NaN" for series in result):
                found[where], until = result, time.monotonic() + 60.0
        time.sleep(0.5)
    return found


def test_every_expression_is_answered_with_data(prometheus: str) -> None:
    names = {rule["alert"] for rule in alerts()}
    panels = {each.where: each for each in expressions() if each.where not in names}
    of_alerts = {metric for each in expressions() if each.where in names for metric in each.metrics}
    must = {where: each.text for where, each in panels.items() if where != EMPTY_WITHOUT_SUCH_A_CAP}
    found = answered(prometheus, must | {metric: metric for metric in of_alerts})
    (median,) = found["Controller turn time A"]
    assert 0.0 < float(median["value"][1]) < 10.0, "not NaN: turns were counted"
    assert not (must.keys() | of_alerts) - found.keys(), "these have no data"
    for where, each in panels.items():
        assert_shows_its_labels(each, found.get(where, []))
    assert ask(prometheus, "query", query=panels[EMPTY_WITHOUT_SUCH_A_CAP].text)["result"] == []


def assert_shows_its_labels(expression: Expression, result: list[dict[str, Any]]) -> None:
    """Each series has the labels of its legend; the budget of the cluster alone has no project."""
    for series in result:
        assert expression.shown - {"project"} <= series["metric"].keys(), expression.where


def test_prometheus_evaluates_every_alert_without_an_error(prometheus: str) -> None:
    names = {rule["alert"] for rule in alerts()}
    until = time.monotonic() + 60.0
    while True:
        (group,) = ask(prometheus, "rules")["groups"]
        if {rule["health"] for rule in group["rules"]} != {"unknown"} or time.monotonic() > until:
            break
        time.sleep(0.2)
    assert {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == dict.fromkeys(
        names, ("ok", "")
    )
    (target,) = ask(prometheus, "targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
