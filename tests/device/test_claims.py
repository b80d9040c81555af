"""A GPU has one controller on a machine, and none that has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from powerflow.device.claims import GpuClaims
from powerflow.device.protocol import DeviceError


def held_elsewhere(directory: Path, *uuids: str) -> subprocess.Popen[str]:
    """Another process that holds these GPUs."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom powerflow.device.claims import GpuClaims\n"
        "held = GpuClaims(sys.argv[2:], Path(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(directory), *uuids]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_controller_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    first = held_elsewhere(tmp_path, "GPU-a", "GPU-b")
    try:
        with pytest.raises(DeviceError, match=rf"controller or agent \(process {first.pid}\) uses GPU GPU-b"):
            GpuClaims(["GPU-c", "GPU-b"], tmp_path, wait_s=0.0)
        other = GpuClaims(["GPU-c"], tmp_path, wait_s=0.0)  # what was refused holds nothing
        other.close()
    finally:
        first.kill()
        first.communicate()


def test_a_controller_that_was_killed_leaves_nothing_behind_that_counts(tmp_path: Path) -> None:
    first = held_elsewhere(tmp_path, "GPU-a")
    os.kill(first.pid, signal.SIGKILL)
    GpuClaims(["GPU-a"], tmp_path).close()
    first.communicate()
    GpuClaims(["GPU-a"], tmp_path, wait_s=0.0).close()


def test_what_we_start_does_not_hold_them_on(tmp_path: Path) -> None:
    held = GpuClaims(["GPU-a"], tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    held.close()
    try:
        GpuClaims(["GPU-a"], tmp_path).close()
    finally:
        child.communicate(b"\n")


def test_a_link_that_somebody_left_is_not_followed(tmp_path: Path) -> None:
    held = GpuClaims(["GPU-a"], tmp_path)
    held.close()
    (lock,) = tmp_path.glob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match="cannot be used"):
        GpuClaims(["GPU-a"], tmp_path)
    assert not (tmp_path / "elsewhere").exists()
