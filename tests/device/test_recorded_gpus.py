"""Recordings are played back as they were, and meter as the GPUs did."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from powerflow.device.emulated.gpu import own_identity
from powerflow.device.meter import Meter
from powerflow.device.protocol import DeviceLost, Unsupported
from powerflow.errors import InputError
from powerflow.testing.recorded_gpus import open_replay, record
from tests.device.cards import emulated_gpus

RECORDING = """\
time_s,uuid,node,index,gpu_type,power_w,energy_j,clock_mhz,locked_mhz,utilisation
0,GPU-1,n1,3,A100,100,1000,1410,,1.0
0,GPU-2,n1,4,A100,60,,210,705,
1,GPU-1,n1,3,A100,200,1150,1410,,1.0
1,GPU-2,n1,4,A100,60,,210,705,
2,GPU-1,n1,3,A100,200,50,1410,,1.0
2,GPU-2,n1,4,A100,60,,210,705,
3,GPU-1,n1,3,A100,200,250,1410,,1.0
3,GPU-2,n1,4,A100,60,,210,705,
"""


def test_it_plays_as_time_passes_and_then_is_gone(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RECORDING)
    now_s = [500.0]
    one, two = open_replay(tmp_path / "r.csv", lambda: now_s[0])
    assert (one.uuid, one.node, one.index, one.gpu_type, one.emulated) == ("GPU-1", "n1", 3, "A100", True)
    first = one.read()
    assert (first.time_s, first.power_w, first.energy_j, first.locked_mhz) == (500, 100, 1000, None)
    now_s[0] += 1.9
    assert (one.read().time_s, one.read().power_w) == (501, 200)
    assert (two.read().locked_mhz, math.isnan(two.read().energy_j)) == (705, True)
    now_s[0] += 1.2
    with pytest.raises(DeviceLost, match="ended"):
        one.read()


def test_its_clock_cannot_be_set(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RECORDING)
    gpu = open_replay(tmp_path / "r.csv")[0]
    with pytest.raises(Unsupported):
        gpu.lock_clock(705)
    with pytest.raises(Unsupported):
        gpu.unlock_clock()
    with pytest.raises(Unsupported):
        gpu.clocks_mhz()


def test_metered_with_a_reset_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RECORDING)
    now_s = [0.0]
    meter = Meter(open_replay(tmp_path / "r.csv", lambda: now_s[0]))
    meter.settle(0.0, {"GPU-1": "job"})
    for second in (1.0, 2.0, 3.0):
        now_s[0] = second
        meter.sample()
    settled = meter.settle(3.0, {})
    # 150 by the counter, 200 by the integral where it was reset, 200 by the counter
    assert (settled.jobs_mj, settled.idle_mj) == ({"job": 550_000}, 180_000)


def test_what_is_recorded_is_played_back(tmp_path: Path) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    pid, birth = own_identity()
    gpus[0].draw(250.0, pid=pid, birth=birth)
    gpus[1].lock_clock(705)
    assert record(gpus, tmp_path / "r.csv", 0.2, 0.05) == 10
    now_s = [0.0]
    played = open_replay(tmp_path / "r.csv", lambda: now_s[0])
    assert [gpu.uuid for gpu in played] == [gpu.uuid for gpu in gpus]
    first = [gpu.read() for gpu in played]
    assert [reading.power_w for reading in first] == [250, 60]
    assert [reading.locked_mhz for reading in first] == [None, 705]
    now_s[0] = 0.19
    last = played[0].read()
    assert last.energy_j - first[0].energy_j == pytest.approx(250 * (last.time_s - first[0].time_s), rel=1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column"),
        ("time_s,energy_j\n0,1\n", "no column power_w"),
        ("time_s,power_w\n", "no reading"),
        ("time_s,power_w\nx,1\n", ":2: time_s is 'x'"),
        ("time_s,power_w\n,1\n", "has no time_s"),
        ("time_s,power_w\n0,inf\n", "power_w is 'inf'"),
        ("time_s,power_w,index\n0,1,-2\n", "index is '-2'"),
        ("time_s,power_w\n5,1\n4,1\n", ":3: is earlier"),
    ],
)
def test_damaged_recordings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        open_replay(tmp_path / "r.csv")


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        open_replay(tmp_path / "none.csv")
