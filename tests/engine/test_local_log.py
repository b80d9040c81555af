"""Logs are bounded, and their offsets count everything ever written."""

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.engine.local import shim
from powerflow.engine.local.cgroups import Cgroups
from powerflow.engine.local.logs import LogWriter, read_log
from powerflow.engine.protocol import RankName, RankSpec
from powerflow.osutil.files import read_json, replace_json


def test_segments_by_hand(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, segment_bytes=4)
    log.write(b"abcdef")
    assert sorted(os.listdir(tmp_path)) == [f"log-{0:020d}", f"log-{4:020d}"]
    assert read_log(tmp_path, 0, 100) == (b"abcdef", 6)
    log.write(b"ghij")  # a third file: the first one goes
    assert read_log(tmp_path, 0, 100) == (b"efghij", 10)
    assert read_log(tmp_path, 5, 2) == (b"fg", 7)
    assert read_log(tmp_path, -3, 100) == (b"hij", 10)
    assert read_log(tmp_path, 10, 100) == (b"", 10)
    assert read_log(tmp_path, 99, 100) == (b"", 99)
    log.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 16), st.integers(-60, 200), st.integers(1, 50))
def test_what_is_kept_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], segment: int, offset: int, limit: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log, written = LogWriter(directory, segment_bytes=segment), b""
    for part in parts:
        log.write(part)
        written += part
        kept = sum(os.path.getsize(directory / name) for name in os.listdir(directory))
        assert min(segment, len(written)) <= kept <= 2 * segment
    log.close()
    data, after = read_log(directory, offset, limit)
    assert len(data) <= limit
    assert written[after - len(data) : after] == data
    first = len(written) - kept if parts else 0
    start = max(first, offset if offset >= 0 else len(written) + offset, 0)
    assert data == written[start : start + limit]


def test_a_full_disk_costs_output_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path, segment_bytes=100)
    log.write(b"before")
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.write(b"12345")
    monkeypatch.setattr(os, "write", write)
    log.write(b"after")
    log.close()
    assert read_log(tmp_path, 0, 100) == (b"before", 6)
    assert read_log(tmp_path, 6, 100) == (b"after", 16)  # five bytes are missing, and counted


def test_a_status_waits_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def full_at_first(path: Path, content: dict[str, object]) -> None:
        if len(calls) < 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_json(path, content)

    monkeypatch.setattr(shim, "replace_json", full_at_first)
    monkeypatch.setattr(time, "sleep", calls.append)
    limits = 0o022, (1024, 1024)
    spec = RankSpec(RankName("g", 0, 0), "n", ("true",))
    launch = shim.Launch(spec, tmp_path, -1, -1, Cgroups(None, {}), frozenset(), *limits)
    shim._write_status(launch, {"state": "exited", "code": 7})
    assert len(calls) == 2
    assert read_json(tmp_path / "status.json") == {"state": "exited", "code": 7}
