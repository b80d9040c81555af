"""Time limits of jobs, in each format that has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from powerflow.trace.read import read_trace
from powerflow.trace.write import write_trace

LINE = "{id}|2024-03-01T08:00:00|2024-03-01T08:10:00|2024-03-01T09:10:00|3600|COMPLETED|gres/gpu=2"
HEAD = "JobID|Submit|Start|End|ElapsedRaw|State|AllocTRES"


@pytest.mark.parametrize(
    ("column", "written", "limit_s"),
    [
        ("Timelimit", "1-00:00:00", 86_400.0),
        ("Timelimit", "02:30:00", 9_000.0),
        ("Timelimit", "30:00", 1_800.0),
        ("Timelimit", "UNLIMITED", None),
        ("Timelimit", "Partition_Limit", None),
        ("Timelimit", "", None),
        ("TimelimitRaw", "90", 5_400.0),
        ("TimelimitRaw", "Partition_Limit", None),
    ],
)
def test_sacct_text(tmp_path: Path, column: str, written: str, limit_s: float | None) -> None:
    (tmp_path / "log.txt").write_text(f"{HEAD}|{column}\n{LINE.format(id=1)}|{written}\n")
    assert [job.limit_s for job in read_trace(tmp_path / "log.txt").jobs] == [limit_s]


@pytest.mark.parametrize(
    ("limit", "limit_s"),
    [(90, 5_400.0), ({"set": True, "infinite": False, "number": 90}, 5_400.0), ({"set": True, "infinite": True}, None)],
)
def test_sacct_json(tmp_path: Path, limit: object, limit_s: float | None) -> None:
    time = {"submission": 1709280000, "start": 1709280600, "end": 1709284200, "elapsed": 3600, "limit": limit}
    tres = {"allocated": [{"type": "gres", "name": "gpu", "count": 2}]}
    job = {"job_id": 1, "user": "ann", "state": "COMPLETED", "time": time, "tres": tres}
    (tmp_path / "log.json").write_text(json.dumps({"jobs": [job]}))
    assert [job.limit_s for job in read_trace(tmp_path / "log.json").jobs] == [limit_s]


def test_swf_and_our_own_csv(tmp_path: Path) -> None:
    (tmp_path / "log.swf").write_text(
        "; Version: 2.2\n1 0 5 100 4 -1 -1 4 600 -1 1 1 1 1 1 1 -1 -1\n2 1 5 100 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1\n"
    )
    trace = read_trace(tmp_path / "log.swf")
    assert [job.limit_s for job in trace.jobs] == [600.0, None]
    with (tmp_path / "log.csv").open("w", newline="") as stream:
        write_trace(trace, stream)
    assert read_trace(tmp_path / "log.csv").jobs == trace.jobs
    assert (tmp_path / "log.csv").read_text().splitlines()[0].endswith(",time_limit_s")
