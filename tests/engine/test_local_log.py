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
from powerflow.engine.local.logs import LogWriter, offset_since, read_log
from powerflow.engine.protocol import EngineError, RankName, RankSpec
from powerflow.osutil.files import read_json, replace_json


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_segments_by_hand(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, segment_bytes=4)
    log.write(b"abcdef")
    assert files(tmp_path) == [f"log-{0:020d}", f"log-{4:020d}", f"times-{0:020d}", f"times-{4:020d}"]
    assert read_log(tmp_path, 0, 100) == (b"abcdef", 6)
    log.write(b"ghij")  # a third file: the first one goes
    assert files(tmp_path) == [f"log-{4:020d}", f"log-{8:020d}", f"times-{4:020d}", f"times-{8:020d}"]
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
        kept = sum(path.stat().st_size for path in directory.glob("log-*"))
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


class Clock:
    """Time of day that a test sets; files that are written get it, too."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_log_since_a_time_by_hand(tmp_path: Path) -> None:
    clock = Clock()
    log = LogWriter(tmp_path, segment_bytes=6, clock=clock)
    assert offset_since(tmp_path, 0.0) == 0
    for clock.now_s, text in ((1000.0, b"ab"), (1000.9, b"cd"), (1001.0, b"ef"), (1100.0, b"gh")):
        log.write(text)  # two files: abcdef, gh
    log.close()
    (index,) = tmp_path.glob(f"times-{0:020d}")
    assert index.stat().st_size == 2 * 16  # "cd" is of the same second as "ab"
    assert offset_since(tmp_path, 0.0) == 0
    assert offset_since(tmp_path, 1000.5) == 0  # "ab" is up to a second too old
    assert offset_since(tmp_path, 1001.0) == 4
    assert offset_since(tmp_path, 1001.9) == 4
    assert offset_since(tmp_path, 1050.0) == 6
    assert offset_since(tmp_path, 1100.5) == 6
    assert offset_since(tmp_path, 1101.0) == 8


def test_nothing_is_searched_in_what_was_dropped(tmp_path: Path) -> None:
    clock = Clock()
    log = LogWriter(tmp_path, segment_bytes=4, clock=clock)
    for clock.now_s in (1000.0, 1010.0, 1020.0):
        log.write(b"abcd")
    log.close()
    assert offset_since(tmp_path, 0.0) == 4
    assert read_log(tmp_path, 0, 100) == (b"abcdabcd", 12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 20), st.binary(min_size=1, max_size=9)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.floats(-10, 200),
)
def test_all_output_since_a_time_is_found_and_a_second_more_at_most(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[float, bytes]], segment: int, since: float
) -> None:
    """Times between the writes are any, and below 0 where the clock is set back: then more is found, never less."""
    directory, clock = tmp_path_factory.mktemp("log"), Clock()
    log = LogWriter(directory, segment_bytes=segment, clock=clock)
    written: list[float] = []  # of each byte
    back = False
    for wait_s, text in parts:
        clock.now_s += wait_s
        back = back or wait_s < 0
        log.write(text)
        written += [clock.now_s] * len(text)
    log.close()
    since_s = 1000.0 + since
    found = offset_since(directory, since_s)
    kept = min(int(path.name[4:]) for path in directory.glob("log-*"))
    assert kept <= found <= len(written)
    assert all(time_s < since_s for time_s in written[kept:found])
    if not back:
        assert all(time_s > since_s - 1.0 for time_s in written[found:])


def test_a_log_of_an_earlier_version_has_no_times_and_says_so(tmp_path: Path) -> None:
    log = LogWriter(tmp_path)
    log.write(b"abc")
    log.close()
    for index in tmp_path.glob("times-*"):
        index.unlink()
    with pytest.raises(EngineError, match="the log has no times"):
        offset_since(tmp_path, 0.0)
    os.utime(tmp_path / f"log-{0:020d}", (2000.0, 2000.0))
    assert offset_since(tmp_path, 3000.0) == 3  # its last byte is known to be older


def test_a_full_disk_costs_no_entry_of_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    log = LogWriter(tmp_path, clock=clock)
    log.write(b"before")
    clock.now_s += 10.0
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        log.write(b"12345")
    clock.now_s += 10.0
    log.write(b"after")
    log.close()
    assert offset_since(tmp_path, clock.now_s) == 11
    assert read_log(tmp_path, 6, 100) == (b"after", 16)


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
