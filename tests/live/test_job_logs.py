"""Which part of a rank's log is read, and which logs are those of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerflow.api.records import JobState, NodeAway, NotFound
from powerflow.engine.protocol import EngineError, RankName
from powerflow.errors import InputError
from powerflow.live import job_logs
from powerflow.live.job_logs import Read, lines_before
from tests.gangs.fake_engine import Script
from tests.live.controller_bench import ADA, Bench
from tests.live.kinds import script


def reader(content: bytes, kept_from: int = 0, hole: tuple[int, int] = (0, 0)) -> Read:
    """Read a log whose first bytes are not kept, and those of the hole neither, because the disk was full."""
    kept = [i for i in range(kept_from, len(content)) if not hole[0] <= i < hole[1]]

    def read(offset: int, limit: int) -> tuple[bytes, int]:
        if offset < 0:
            offset = max(0, len(content) + offset)
        first = next((i for i in kept if i >= offset), None)
        if first is None:
            return b"", offset
        end = first
        while end in kept and end - first < limit:
            end += 1
        return content[first:end], end

    return read


@pytest.mark.parametrize(
    ("content", "lines", "start"),
    [
        (b"", 3, 0),
        (b"a\nb\nc\n", 1, 4),
        (b"a\nb\nc\n", 2, 2),
        (b"a\nb\nc\n", 3, 0),
        (b"a\nb\nc\n", 9, 0),
        (b"a\nb\nc", 1, 4),
        (b"a\n\n\n", 2, 2),
        (b"\n", 1, 0),
        (b"abc", 1, 0),
    ],
)
def test_the_last_lines_by_hand(content: bytes, lines: int, start: int) -> None:
    assert lines_before(reader(content), len(content), lines) == (start, False)


def test_the_last_lines_of_a_log_whose_older_part_is_not_kept() -> None:
    read = reader(b"one\ntwo\nthree\n", kept_from=6)  # "o\nthree\n"
    assert lines_before(read, 14, 1) == (8, False)
    assert lines_before(read, 14, 2) == (6, True)
    assert lines_before(read, 14, 9) == (6, True)


def test_the_last_lines_of_a_log_with_a_hole() -> None:
    read = reader(b"one\ntwo\nthree\nfour\n", hole=(5, 11))  # "one\nt", "ee\nfour\n"
    assert lines_before(read, 19, 1) == (14, False)
    assert lines_before(read, 19, 2) == (4, False)
    assert lines_before(read, 19, 3) == (0, False)


@given(st.text("ab\n", max_size=60).map(str.encode), st.integers(1, 9), st.integers(1, 4))
def test_the_last_lines_are_those_of_tail(content: bytes, lines: int, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_logs, "_STEP", step)
        start, dropped = lines_before(reader(content), len(content), lines)
    assert content[start:] == b"".join(content.splitlines(keepends=True)[-lines:])
    assert not dropped


@given(st.text("ab\n", max_size=40).map(str.encode), st.integers(0, 40), st.integers(1, 4))
def test_a_line_begins_after_the_line_break_before(content: bytes, at: int, step: int) -> None:
    at = min(at, len(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_logs, "_STEP", step)
        assert lines_before(reader(content), at, 0)[0] == content.rfind(b"\n", 0, at) + 1


def test_a_part_begins_at_the_last_lines_or_at_a_time(bench: Bench) -> None:
    script(bench, lasts=1000)
    job = bench.submit(rescale="none", gpus=1)
    bench.until_state(job, JobState.RUNNING)
    (name,) = bench.engine.running()
    bench.turn(6)
    log, begun_s = bench.service.log, bench.engine.statuses[name].started_s
    lines = log(job).text.splitlines()
    assert len(lines) >= 6
    assert log(job, tail=2).text.splitlines() == lines[-2:]
    assert (log(job, tail=0).text, log(job, tail=0).offset) == ("", log(job).offset)
    assert log(job, tail=10**9).text.splitlines() == lines
    assert log(job, since_s=begun_s + 2.0).text.splitlines() == lines[4:]
    assert log(job, since_s=begun_s + 2.0, tail=1).text.splitlines() == lines[-1:]
    assert log(job, since_s=begun_s + 2.0, tail=99).text.splitlines() == lines[4:]
    assert log(job, since_s=1e11).text == ""
    assert log(job, offset=log(job, limit=7).offset).text == "\n".join(["", *lines[1:], ""])[1:]
    assert not log(job, tail=99).dropped


def test_output_since_a_time_begins_with_a_whole_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that buffers its output writes a line in two halves."""
    script(bench, lasts=1000)
    job = bench.submit(rescale="none", gpus=1)
    bench.until_state(job, JobState.RUNNING)
    bench.turn(4)
    monkeypatch.setattr(type(bench.engine), "log_offset", lambda *_: 10)  # in "step 2\n", from 7 on
    assert bench.service.log(job, since_s=1.0).text.startswith("step 2\n")
    (player,) = bench.engine.players.values()
    assert isinstance(player, Script)
    player.log += b"45 %"
    monkeypatch.setattr(type(bench.engine), "log_offset", lambda *_: len(player.log))  # nothing since then
    assert bench.service.log(job, since_s=1.0).text == ""


def test_what_is_not_kept_any_more_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bench, lasts=1000)
    job = bench.submit(rescale="none", gpus=1)
    bench.until_state(job, JobState.RUNNING)
    bench.turn(6)
    whole = bench.service.log(job).text.encode()
    monkeypatch.setattr(type(bench.engine), "log", lambda _, name, offset, limit: reader(whole, 10)(offset, limit))
    monkeypatch.setattr(type(bench.engine), "log_offset", lambda _, name, since_s: 10 if since_s < 5.0 else 21)
    log = bench.service.log
    assert (log(job).dropped, log(job, offset=10).dropped, log(job, offset=-3).dropped) == (True, False, False)
    assert log(job).text.encode() == whole[10:]
    assert (log(job, tail=2).dropped, log(job, tail=999).dropped) == (False, True)
    assert (log(job, since_s=1.0).dropped, log(job, since_s=9.0).dropped) == (True, False)


def test_times_that_are_not_known_are_not_guessed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bench, lasts=1000)
    job = bench.submit(rescale="none", gpus=1)
    bench.until_state(job, JobState.RUNNING)
    bench.turn()

    def unknown(*_: object) -> int:
        raise EngineError("this agent's version does not know the order 'log_offset'")

    monkeypatch.setattr(type(bench.engine), "log_offset", unknown)
    with pytest.raises(InputError, match=r"output of rank 1\.1\.0 are not known: this agent's version does not know"):
        bench.service.log(job, since_s=1.0)
    assert bench.service.log(job, tail=1).text


def test_the_node_of_a_log_that_cannot_be_read_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bench, lasts=1000)
    job = bench.submit(rescale="none", gpus=1)
    bench.until_state(job, JobState.RUNNING)
    bench.turn()
    (rank,) = bench.service.job(job).ranks

    def away(*_: object) -> tuple[bytes, int]:
        raise EngineError("the link has ended", retry=True)

    monkeypatch.setattr(type(bench.engine), "log", away)
    with pytest.raises(NodeAway, match=f"node {rank['node']} does not answer"):
        bench.service.log(job)


def test_the_logs_of_a_job_are_those_of_its_starts(bench: Bench) -> None:
    script(bench, lasts=3, code=1)
    job = bench.submit(rescale="restart", gpus=2, retries=1, progress=r"step (?P<step>\d+)", batch={"global": 64})
    bench.until_state(job, JobState.FAILED)
    found = bench.service.logs(job)
    assert found.ended
    assert [(log.start, RankName.parse(log.rank).number, log.ended) for log in found.items] == [
        (1, 0, True),
        (2, 0, True),
    ]
    assert [bench.engine.statuses[RankName.parse(log.rank)].started_s for log in found.items] == [
        log.started_s for log in found.items
    ]
    assert len(bench.service.job(job).ranks) == 4
    with pytest.raises(NotFound):
        bench.service.logs("999")


def test_the_log_of_a_rank_ends_with_the_rank_and_that_of_the_job_with_the_job(bench: Bench) -> None:
    script(bench, lasts=3, code=1)
    job = bench.submit(rescale="none", gpus=1, retries=1)
    bench.until(lambda: bool(bench.service.logs(job).items) and bench.service.logs(job).items[0].ended)
    (first,) = bench.service.logs(job).items
    assert not bench.service.logs(job).ended
    assert bench.service.log(job, rank=first.rank).ended
    assert not bench.service.log(job, rank=first.rank, limit=1).ended
    assert not bench.service.log(job).ended
    bench.service.cancel(job, ADA)
    bench.turn()
    assert bench.service.log(job).ended
