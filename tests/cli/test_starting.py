"""A controller says what it does while it starts, and what systemd will do to its ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from powerflow.cli.starting import ends_ranks, phase


@pytest.mark.parametrize(
    ("took_s", "more"), [(0.9, []), (4.26, ["powerflow: opens the store: took 4.26 s"])], ids=["short", "long"]
)
def test_a_phase_is_a_line_and_a_long_one_says_how_long(
    capsys: pytest.CaptureFixture[str], took_s: float, more: list[str]
) -> None:
    times = iter((100.0, 100.0 + took_s))
    with phase("opens the store", lambda: next(times)):
        assert capsys.readouterr().err == "powerflow: opens the store\n", "before it begins"
    assert capsys.readouterr().err.splitlines() == more


@pytest.mark.parametrize(
    ("cgroup", "mode", "warns"),
    [
        ("0::/system.slice/powerflow.service", "control-group", True),
        ("0::/system.slice/powerflow.service", "mixed", True),
        ("0::/system.slice/powerflow.service", "process", False),
        ("0::/system.slice/powerflow.service", "", False),
        ("4:memory:/a\n1:name=systemd:/system.slice/powerflow.service", "control-group", True),
        ("0::/user.slice/user-1000.slice/session-3.scope", "control-group", False),
        ("0::/", "control-group", False),
    ],
)
def test_systemd_that_ends_ranks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, mode: str, warns: bool
) -> None:
    (tmp_path / "cgroup").write_text(f"{cgroup}\n")
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$4" = powerflow.service ] && echo {mode}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    said = ends_ranks(tmp_path / "cgroup")
    assert (said == "") is not warns
    assert not warns or f"powerflow.service is stopped or restarted (KillMode={mode})" in said


def test_without_systemd_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "cgroup").write_text("0::/system.slice/powerflow.service\n")
    assert ends_ranks(tmp_path / "cgroup") == ""
    assert ends_ranks(tmp_path / "nothing") == ""
