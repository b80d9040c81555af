"""Logs are bounded, and their offsets count everything ever written."""

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.engine.local import shim
from powerflow.engine.local.becoming import Launch
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
    log = LogWriter(tmp_path, segment_bytes=1800, clock=clock)
    assert offset_since(tmp_path, 0.0) == 0
    for clock.now_s in (1000.0, 1000.9, 1001.0, 1100.0):
        log.write(b"x" * 600)  # two files, of three pieces and of one
    log.close()
    (index,) = tmp_path.glob(f"times-{0:020d}")
    assert index.stat().st_size == 2 * 16  # the second piece is of the same second as the first
    assert offset_since(tmp_path, 0.0) == 0
    assert offset_since(tmp_path, 1000.5) == 0  # the first piece is up to a second too old
    assert offset_since(tmp_path, 1001.0) == 1200
    assert offset_since(tmp_path, 1001.9) == 1200
    assert offset_since(tmp_path, 1050.0) == 1800
    assert offset_since(tmp_path, 1100.5) == 1800
    assert offset_since(tmp_path, 1101.0) == 2400


def test_much_output_of_one_second_is_not_taken_for_later_output(tmp_path: Path) -> None:
    """Two pieces of 600 bytes within a second, 100 bytes at 1050 s, 300 at 1060 s, 500 at 1070 s."""
    clock = Clock()
    log = LogWriter(tmp_path, clock=clock)
    for clock.now_s, size in ((1000.0, 600), (1000.9, 600), (1050.0, 100), (1060.0, 300), (1070.0, 500)):
        log.write(b"x" * size)
    log.close()
    (index,) = tmp_path.glob("times-*")
    assert index.stat().st_size == 3 * 16  # of 0, 1200 and 1600: the 400 bytes between are little
    assert [offset_since(tmp_path, since_s) for since_s in (1000.9, 1001.0, 1051.0, 1060.0)] == [0, 1200, 1200, 1200]
    assert [offset_since(tmp_path, since_s) for since_s in (1069.0, 1070.5)] == [1200, 1600]


def test_the_times_of_a_slow_log_are_small_beside_it(tmp_path: Path) -> None:
    """Three bytes a second, for three hours: an index of 16 bytes a second was five times as large as the log."""
    clock = Clock()
    log = LogWriter(tmp_path, clock=clock)
    for second in range(3 * 3600):
        clock.now_s = 1000.0 + second
        log.write(b"ok\n")
    log.close()
    (index,), (kept,) = tmp_path.glob("times-*"), tmp_path.glob("log-*")
    assert kept.stat().st_size == 32400
    assert index.stat().st_size <= 32400 / 16
    assert all(3 * second - 512 <= offset_since(tmp_path, 1000.0 + second) <= 3 * second for second in (0, 600, 9000))


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
    st.lists(st.tuples(st.floats(-5, 20), st.sampled_from([1, 9, 300, 700])), min_size=1, max_size=30),
    st.integers(1, 4000),
    st.floats(-10, 200),
)
def test_all_output_since_a_time_is_found_and_little_more(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[float, int]], segment: int, since: float
) -> None:
    """At most that of one second, or 512 bytes. If the clock is set back, more is found, but never less."""
    directory, clock = tmp_path_factory.mktemp("log"), Clock()
    log = LogWriter(directory, segment_bytes=segment, clock=clock)
    written: list[float] = []  # of each byte
    back = False
    for wait_s, size in parts:
        clock.now_s += wait_s
        back = back or wait_s < 0
        log.write(b"x" * size)
        written += [clock.now_s] * size
    log.close()
    since_s = 1000.0 + since
    found = offset_since(directory, since_s)
    kept = min(int(path.name[4:]) for path in directory.glob("log-*"))
    assert kept <= found <= len(written)
    assert all(time_s < since_s for time_s in written[kept:found])
    older = [time_s for time_s in written[found:] if time_s < since_s]
    if not back and len(older) > 512:
        assert all(time_s >= since_s - 1.0 for time_s in older)


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
    log.write(b"b" * 600)
    clock.now_s += 10.0
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        log.write(b"12345")
    clock.now_s += 10.0
    log.write(b"after")
    log.close()
    assert offset_since(tmp_path, clock.now_s) == 605
    assert read_log(tmp_path, 600, 100) == (b"after", 610)


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
    launch = Launch(spec, tmp_path, -1, -1, Cgroups(None, {}), frozenset(), *limits)
    shim._write_status(launch, {"state": "exited", "code": 7})
    assert len(calls) == 2
    assert read_json(tmp_path / "status.json") == {"state": "exited", "code": 7}
