"""The units of systemd keep ranks over a restart, and give a controller the time that its end takes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from powerflow.cli.ending import FORCE_S
from powerflow.cli.running import SETTLE_S
from powerflow.cli.site.watch import EVERY_S

UNITS = Path(__file__).parents[1] / "deploy" / "systemd"
ALL = ["powerflow.service", "powerflow-agent.service", "powerflow-controller.service", "powerflow-watch.service"]
#: Units whose processes include ranks.
WITH_RANKS = ALL[:2]
CONTROLLERS = [ALL[0], ALL[2]]


def settings(unit: str) -> dict[str, str]:
    """The last value of each setting of a unit."""
    lines = [line for line in (UNITS / unit).read_text().splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_these_are_all_units() -> None:
    assert sorted(ALL) == sorted(path.name for path in UNITS.iterdir())


@pytest.mark.parametrize("unit", WITH_RANKS)
def test_ranks_outlive_a_restart_of_their_unit(unit: str) -> None:
    found = settings(unit)
    assert found["KillMode"] == "process", "otherwise systemd ends all processes of the unit"
    assert found["OOMPolicy"] == "continue", "otherwise it does so when one rank uses too much memory"
    assert found["Delegate"] == "yes", "otherwise ranks have no control groups of their own"


@pytest.mark.parametrize("unit", CONTROLLERS)
def test_a_controller_has_the_time_to_end_and_stays_away_once_it_was_taken_over(unit: str) -> None:
    found = settings(unit)
    assert float(found["TimeoutStopSec"]) >= SETTLE_S + 2 * FORCE_S
    assert found["RestartPreventExitStatus"] == "4"
    assert found["Restart"] == "always"


def test_a_watch_has_no_rights_and_does_not_ask_more_often_when_it_fails() -> None:
    found = settings("powerflow-watch.service")
    assert found["DynamicUser"] == "yes"
    assert found["CapabilityBoundingSet"] == ""
    assert float(found["RestartSec"]) >= EVERY_S
    assert found["RestartPreventExitStatus"] == "4"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", ALL)
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    here = tmp_path / unit
    here.write_text((UNITS / unit).read_text().replace("/opt/powerflow/bin/powerflow", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(here)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)
    assert [line for line in done.stderr.splitlines() if unit in line] == []
    assert done.returncode == 0, done.stderr
