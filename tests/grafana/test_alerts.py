"""Each alert fires when it should, and not otherwise, as Prometheus' own promtool computes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from powerflow.cli.serve import PORT
from tests.grafana.expressions import RULES, SCRAPE, alerts
from tests.test_docs import unknown

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: prometheus)")

#: Labels that each series has, of the controller that Prometheus scrapes.
FROM = 'instance="ctl:7733",job="powerflow"'


@dataclass(frozen=True)
class Case:
    """What Prometheus has scraped, and whether an alert fires then.

    Attributes:
        series: Samples by metric and labels, one a minute, in promtool's notation (``100x9``: ten times 100).
        at: Minutes after which is asked.
        fires: Labels of the alert that fires, besides those of the controller; None if none does.
    """

    series: Mapping[str, str]
    at: int
    fires: Mapping[str, str] | None


def budget(spent: str, expected: str) -> dict[str, str]:
    labels = 'project="vision",emulated="false"'
    values = {"spent_": spent, "expected_": expected, "": "100x60"}
    return {f"powerflow_budget_{name}joules{{{labels}}}": value for name, value in values.items()}


def cap(drawn: str, allowed: str) -> dict[str, str]:
    labels = 'scope="rack:rack-0",emulated="false"'
    return {f"powerflow_cap_power_watts{{{labels}}}": drawn, f"powerflow_cap_watts{{{labels}}}": allowed}


def gpu(busy: str, *, asked: str = "", locked: str = "", node: str = "up") -> dict[str, str]:
    labels = 'node="n1",gpu="3",gpu_type="A100",emulated="false"'
    found = {f"powerflow_gpu_busy{{{labels}}}": busy, f'powerflow_node{{node="n1",state="{node}"}}': "1x60"}
    clocks = {"asked": asked, "locked": locked}
    return found | {f"powerflow_gpu_{name}_clock_hertz{{{labels}}}": value for name, value in clocks.items() if value}


def error(values: str) -> dict[str, str]:
    return {'powerflow_job_model_error_ratio{job_id="7",name="bert"}': values}


OF_BUDGET = {"project": "vision", "emulated": "false", "severity": "warning"}
SPENT = {**OF_BUDGET, "severity": "critical"}
OF_CAP = {"scope": "rack:rack-0", "emulated": "false", "severity": "critical"}
OF_GPU = {"node": "n1", "gpu": "3", "gpu_type": "A100", "emulated": "false", "severity": "warning"}
OF_JOB = {"job_id": "7", "name": "bert", "severity": "warning"}
OF_NODE = {"node": "n1", "state": "unreachable", "severity": "critical"}
CRITICAL = {"severity": "critical"}
AWAY, UP = 'powerflow_node{node="n1",state="unreachable"}', 'powerflow_node{node="n1",state="up"}'
CASES: dict[str, list[Case]] = {
    "PowerFlowBudgetAtRisk": [
        Case(budget("50x60", "100x60"), 31, OF_BUDGET),
        Case(budget("50x60", "100x60"), 29, None),
        Case(budget("50x60", "99.6x60"), 59, None),  # as a price keeps it
        Case(budget("50x60", "100x20 99.6x40"), 59, None),
    ],
    "PowerFlowBudgetExceeded": [
        Case(budget("101x60", "120x60"), 6, SPENT),
        Case(budget("100x60", "100x60"), 59, None),
    ],
    "PowerFlowCapMissed": [
        Case(cap("410x20", "400x20"), 3, OF_CAP),
        Case(cap("400x20", "400x20"), 20, None),
        Case(cap("410 410 399 410 410 399 410", "400x20"), 6, None),  # now and then for a minute
        Case(cap("890-50x10", "900-50x10"), 10, None),  # on its way down the ramp
        Case(cap("890x10", "900-50x10"), 5, OF_CAP),  # and not
    ],
    "PowerFlowClockNotRestored": [
        Case(gpu("0x20", asked="1.2e9x20"), 6, OF_GPU),
        Case(gpu("0x20", locked="1.2e9x20", node="drained"), 6, OF_GPU),
        Case(gpu("0x20", asked="1.2e9x20"), 4, None),
        Case(gpu("1x20", asked="1.2e9x20"), 20, None),
        Case(gpu("0x20"), 20, None),
        Case(gpu("0x20", asked="1.2e9x20", node="unreachable"), 20, None),  # nobody knows its clock
    ],
    "PowerFlowModelErrorHigh": [
        Case(error("0.4x60"), 11, OF_JOB),
        Case(error("0.05x60"), 59, None),
        Case(error("0.05x29 0.9 0.05x29"), 35, None),  # one step that was measured badly
    ],
    "PowerFlowNodeUnreachable": [
        Case({AWAY: "1x20"}, 3, OF_NODE),
        Case({AWAY: "1 _x20", UP: "_ 1x20"}, 20, None),
    ],
    "PowerFlowControllerDown": [
        Case({"up": "0x20"}, 3, CRITICAL),
        Case({"up": "1x20", "powerflow_healthy": "0x20"}, 3, CRITICAL),
        Case({"up": "1x20", "powerflow_healthy": "1x20"}, 20, None),
        Case({"up": "1 0 1x20", "powerflow_healthy": "1 _ 1x20"}, 2, None),  # a restart
    ],
}


def labelled(series: str) -> str:
    """A series with the labels of the controller."""
    return series.replace("}", f",{FROM}}}") if "}" in series else f"{series}{{{FROM}}}"


def inputs(case: Case) -> dict[str, Any]:
    rows = [{"series": labelled(series), "values": values} for series, values in case.series.items()]
    return {"interval": "1m", "input_series": rows}


def promtool(tmp_path: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    return subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {rule["alert"] for rule in alerts()} == CASES.keys()
    for name, cases in CASES.items():
        assert {case.fires is None for case in cases} == {True, False}, name


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    tests = []
    for case in CASES[name]:
        fires = [] if case.fires is None else [{"labels": firing(name, case.fires), "value": 1}]
        asked = {"expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}', "eval_time": f"{case.at}m"}
        tests.append({**inputs(case), "promql_expr_test": [{**asked, "exp_samples": fires}]})
    done = promtool(tmp_path, tests)
    assert done.returncode == 0, done.stdout + done.stderr


def firing(name: str, labels: Mapping[str, str]) -> str:
    pairs = {"alertname": name, "alertstate": "firing", **labels}
    return "ALERTS{" + ",".join([FROM, *(f'{label}="{value}"' for label, value in pairs.items())]) + "}"


@needs_promtool
def test_texts_name_what_they_are_about(tmp_path: Path) -> None:
    """promtool prints the texts of an alert that nobody expects."""
    firsts = {name: next(case for case in cases if case.fires is not None) for name, cases in CASES.items()}
    unexpected = [
        {**inputs(case), "alert_rule_test": [{"alertname": name, "eval_time": f"{case.at}m", "exp_alerts": []}]}
        for name, case in firsts.items()
    ]
    done = promtool(tmp_path, unexpected)
    assert done.returncode == 1
    said = re.findall(r'Annotations:\{description="(.*?)", summary="(.*?)"\}', done.stdout + done.stderr)
    assert len(said) == len(CASES)
    assert not [text for texts in said for text in texts if "<error" in text or "no value" in text or "{{" in text]
    summaries = [summary for _, summary in said]
    for what in ("ctl:7733", "project vision", "rack:rack-0", "GPU 3 of n1", "job 7 (bert)", "Node n1"):
        assert any(what in summary for summary in summaries), what
    assert any("draws 410W" in description for description, _ in said)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"] in ({"severity": "warning"}, {"severity": "critical"})
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["annotations"].keys() == {"summary", "description"}
    commands = re.findall(r"`powerflow ([^`]+)`", rule["annotations"]["description"])
    assert commands
    assert not [word for command in commands for word in unknown(command.replace("{{ ", "").split())]


@needs_promtool
def test_promtool_accepts_the_rules_and_the_scrape_file(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    subprocess.run([PROMTOOL, "check", "rules", "--lint-fatal", str(RULES)], check=True, capture_output=True)
    config = tmp_path / "scrape.yml"
    (tmp_path / "token").write_text("pf_viewer\n")
    config.write_text(SCRAPE.read_text().replace("/etc/prometheus/powerflow.token", str(tmp_path / "token")))
    shutil.copy(RULES, tmp_path)
    done = subprocess.run([PROMTOOL, "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 rules found" in done.stdout


def test_the_scrape_file_asks_where_a_controller_listens() -> None:
    (scrape,) = yaml.safe_load(SCRAPE.read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"127.0.0.1:{PORT}"]}]
    assert scrape["job_name"] == "powerflow", "as the alert PowerFlowControllerDown selects it"
