"""What a job may write in place of a report, and that only its own fate hangs on it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerflow.api.records import JobState
from powerflow.cost.observation import Observation
from powerflow.elastic.mailbox import Mailbox, Phase, RankReport
from powerflow.gangs.rank_reports import MOST_BYTES, NOTE_CHARS, Nonsense, read_report, refusal
from powerflow.gangs.report_bounds import MOST_BATCH, MOST_COUNT, MOST_S, is_plausible
from powerflow.gangs.types import GangFailed, Progressed
from powerflow.live.jobs.active_job import ActiveJob
from tests.live.controller_bench import Bench

GOOD = dataclasses.asdict(RankReport("7.1.0", 1, 2, Phase.COMPUTING, 1.7e9, step=5, timed_steps=5, timed_s=2.0))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def said(folder: Path, content: str | bytes, name: str = "7.1.0") -> RankReport | Nonsense | None:
    path = folder / f"{name}.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return read_report(folder, name)


def why(folder: Path, content: str | bytes) -> str:
    found = said(folder, content)
    assert isinstance(found, Nonsense)
    assert found.why.isprintable()
    assert len(found.why) < 200
    return found.why


def test_what_a_rank_says_is_read(tmp_path: Path) -> None:
    assert said(tmp_path, json.dumps(GOOD)) == RankReport(**GOOD)
    assert said(tmp_path, json.dumps(GOOD | {"of a later version": [1]})) == RankReport(**GOOD)
    assert read_report(tmp_path, "7.1.1") is None
    assert read_report(tmp_path / "nowhere", "7.1.1") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("KeyError: 'LOCAL_RANK'", "reads an environment variable that only torchrun sets: `powerflow elastic check`"),
        ('    dist.init_process_group("nccl")', "opens a torch.distributed process group itself"),
        ("ValueError: 'LOCAL_RANK'", ""),
    ],
)
def test_a_script_for_torchrun_is_not_tried_again(line: str, words: str) -> None:
    failure = refusal(["7.1.0"], {}, lambda _: 1, lambda _: ["Traceback", line])
    assert (failure is not None) == bool(words)
    if failure is not None:
        assert failure.final
        assert failure.text.startswith(f"7.1.0 exited with code 1: its script {words}")
    joined = RankReport("7.1.0", 1, 2, Phase.COMPUTING, 1.7e9)
    assert refusal(["7.1.0"], {"7.1.0": joined}, lambda _: 1, lambda _: [line]) is None
    assert refusal(["7.1.0"], {}, lambda _: 0, lambda _: [line]) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 300])
def test_what_a_power_cut_leaves_says_nothing(content: bytes, tmp_path: Path) -> None:
    assert said(tmp_path, content) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a":' + "[" * 60_000, "too many nested brackets"),
        ('{"a":' + "[" * 200_000, f"larger than {MOST_BYTES} bytes"),
        ("[" * 20_000 + "]" * 20_000, "too many nested brackets"),
        (" " * MOST_BYTES + "{}", f"larger than {MOST_BYTES} bytes"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("{}", "lacks generation, name, phase, phase_s, pid"),
        ('{"timed_s": NaN}', "has the value NaN"),
        ('{"timed_s": -Infinity}', "has the value -Infinity"),
        ('{"step": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_what_is_no_report_is_named(content: str | bytes, reason: str, tmp_path: Path) -> None:
    assert reason in why(tmp_path, content)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("timed_s", 10**400, "timed_s is a number of more than 30 digits, not seconds"),
        ("timed_s", 1e300, "timed_s is 1e+300"),
        ("timed_s", -1.0, "timed_s is -1.0"),
        ("timed_s", "2", "timed_s is 2, not seconds"),
        ("timed_s", True, "timed_s is True"),
        ("phase_s", 10**13, "phase_s is 10000000000000"),
        ("step", -1, "step is -1, not a whole number"),
        ("step", 1 << 63, "step is 9223372036854775808"),
        ("step", 2.0, "step is 2.0"),
        ("step", True, "step is True"),
        ("step", None, "step is None"),
        ("steps_total", MOST_COUNT + 1, "steps_total is"),
        ("global_batch", MOST_BATCH + 1, "global_batch is"),
        ("generation", 1 << 40, "generation is"),
        ("saved_step", -5, "saved_step is -5"),
        ("phase", "dancing", "phase is dancing"),
        ("phase", ["done"], "phase is ['done']"),
        ("name", "8.1.0", "is that of another rank, 8.1.0"),
        ("name", {"a": 1}, "name is {'a': 1}, not text"),
        ("note", 7, "note is 7, not text"),
        ("timed_steps", 10**9, "1000000000 steps took 2 s"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(key: str, value: Any, reason: str, tmp_path: Path) -> None:
    assert reason in why(tmp_path, json.dumps(GOOD | {key: value}))


def test_a_number_beyond_every_float_is_named(tmp_path: Path) -> None:
    assert "timed_s is inf" in why(tmp_path, json.dumps(GOOD).replace('"timed_s": 2.0', '"timed_s": 1e999'))


def test_a_note_is_one_short_line_of_plain_text(tmp_path: Path) -> None:
    found = said(tmp_path, json.dumps(GOOD | {"note": "\x1b[2J\ud800\0\n" + "x" * 9000}))
    assert isinstance(found, RankReport)
    assert found.note.isprintable()
    assert len(found.note) == NOTE_CHARS


def test_what_is_no_plain_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "secret").write_text(json.dumps(GOOD))
    (tmp_path / "link.json").symlink_to(tmp_path / "secret")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.json"))
        for name in ("fifo", "folder", "link", "endless", "socket"):
            assert isinstance(read_report(tmp_path, name), Nonsense), name
    (tmp_path / "ranks").symlink_to(tmp_path)
    assert isinstance(read_report(tmp_path / "ranks", "7.1.0"), Nonsense)
    assert isinstance(read_report(tmp_path / "secret", "7.1.0"), Nonsense)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.dictionaries(st.sampled_from(sorted(GOOD)), _ANYTHING)))
def test_whatever_is_written_comes_out_as_data_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, written: bytes | dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    found = said(folder, written if isinstance(written, bytes) else json.dumps(GOOD | written))
    match found:
        case RankReport():
            for field in dataclasses.fields(found):
                value = getattr(found, field.name)
                if isinstance(value, int | float):
                    assert math.isfinite(value)
                    assert 0 <= value <= MOST_COUNT
            assert found.timed_s <= MOST_S
        case Nonsense():
            assert found.why.isprintable()
            assert len(found.why) < 200
        case None:
            assert isinstance(written, bytes)


def test_measurements_that_were_never_made_are_not_believed() -> None:
    def seen(**keys: Any) -> bool:
        fields: dict[str, Any] = {"model": "m", "gpu_type": "A100", "gpus": 1, "local_batch": 8, **keys}
        return is_plausible(Observation(**fields))

    assert seen(step_time_s=0.1, power_w=300.0)
    for step_time_s in (0.0, 1e-9, 1e10, math.inf, math.nan):
        assert not seen(step_time_s=step_time_s)
    assert not seen(step_time_s=0.1, power_w=math.nan)
    assert not seen(step_time_s=0.1, local_batch=1 << 62)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD | {"name": "NAME", "timed_s": 10**400}),
        '{"a":' + "[" * 200_000,
        json.dumps(GOOD | {"name": "NAME", "step": 1 << 64, "steps_total": 1 << 64}),
    ],
    ids=["400 digits", "deep", "beyond 64 bits"],
)
def test_nonsense_fails_its_job_once_and_nothing_else(bench: Bench, content: str) -> None:
    bench.steps_total = 10_000
    victim, evil = bench.submit(), bench.submit()
    for job in (victim, evil):
        bench.until_trains(job)
    rank = next(str(name) for name in bench.engine.running() if name.gang == evil)
    reports = Mailbox(bench.directory / "jobs" / evil).directory / "ranks"
    steps = bench.controller.jobs[victim].steps
    for name in (rank, "other"):
        (reports / f"{name}.json").write_text(content.replace("NAME", rank), "utf-8")
    bench.engine.players[next(name for name in bench.engine.running() if name.gang == evil)] = _Mute()
    bench.until_state(evil, JobState.FAILED)
    failed = bench.job(evil)
    assert rank in failed.exit
    assert "is rejected: it" in failed.exit
    assert failed.failures == 0
    bench.restart()
    bench.turn(10)
    assert bench.ends(evil) == ["failed"]
    assert bench.job(victim).state is JobState.RUNNING
    bench.until(lambda: bench.controller.jobs[victim].steps > steps)


def _break(*_: object) -> None:
    raise KeyError("missing")


class _Mute:
    """A process that does nothing more, so that what was written stays."""

    def advance(self) -> None:
        return None


def test_a_defect_in_one_jobs_turn_fails_that_job_and_is_logged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 10_000
    victim, other = bench.submit(), bench.submit()
    for job in (victim, other):
        bench.until_trains(job)
    defects: list[tuple[str, str]] = []
    monkeypatch.setattr(bench.gangs, "_on_defect", lambda job_id, error: defects.append((job_id, str(error))))
    gang = bench.gangs._gangs[other]
    monkeypatch.setattr(gang, "find", _break)
    bench.until_state(other, JobState.FAILED)
    assert bench.job(other).exit == "internal: KeyError: 'missing'"
    assert defects[0] == (other, "'missing'")
    assert not [name for name in bench.engine.running() if name.gang == other]
    assert bench.job(victim).state is JobState.RUNNING


def test_a_gang_whose_end_has_a_defect_too_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 10_000
    job = bench.submit()
    bench.until_trains(job)
    monkeypatch.setattr(bench.gangs._gangs[job], "turn", _break)
    bench.until_state(job, JobState.FAILED)
    assert not bench.engine.running()
    assert len(bench.ends(job)) == 1


def test_a_defect_in_what_is_made_of_a_fact_fails_that_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 10_000
    victim, other = bench.submit(), bench.submit()
    for job in (victim, other):
        bench.until_trains(job)
    events = bench.controller._gang_events
    take = events._progressed

    def taken(fact: Progressed, entry: ActiveJob, now_s: float) -> None:
        take(fact, entry, now_s // (entry.id == victim))

    monkeypatch.setattr(events, "_progressed", taken)
    bench.until_state(other, JobState.FAILED)
    assert bench.job(other).exit.startswith("internal: ZeroDivisionError")
    bench.until(lambda: not [name for name in bench.engine.running() if name.gang == other])
    assert bench.job(victim).state is JobState.RUNNING


def test_a_flood_of_facts_is_taken_in_portions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powerflow.live.gang_events.EVENTS_AT_ONCE", 10)
    events = bench.controller._gang_events
    events._waiting.extend([GangFailed("none", 1, 1, "text", (), None)] * 25)
    for left in (15, 5, 0, 0):
        events.take_all(0.0)
        assert len(events._waiting) == left


def test_what_an_earlier_version_stored_ends_no_controller(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit()
    bench.until_trains(job)
    bench.store.put("batches", {bench.controller.jobs[job].kind.name: 1 << 80, "x": "y", "z": -1})
    bench.store.put("pauses", {bench.controller.jobs[job].kind.name: 1e308})
    with bench.store._database.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET steps = 1e300, steps_total = 1e305")
        connection.exec_driver_sql(
            "INSERT INTO observations (cost_class, job_id, time_s, steps, model, gpu_type, gpus, nodes, local_batch,"
            " accumulation, step_time_s, power_w) VALUES ('c', 1, 0, 20, 'm', 'A100', 1, 1, 4611686018427387904, 1,"
            " 1e-300, 0)"
        )
    bench.restart()
    bench.until_trains(job)
    assert bench.controller.jobs[job].steps < 10_001


@pytest.mark.parametrize(
    "extreme",
    [
        {"steps_total": MOST_COUNT, "timed_s": MOST_S, "pause_s": MOST_S, "global_batch": MOST_BATCH},
        {
            "steps_total": 1,
            "step": MOST_COUNT,
            "timed_steps": MOST_COUNT,
            "timed_s": MOST_S,
            "accumulation": MOST_BATCH,
        },
        {"steps_total": 0, "timed_s": 1e-5, "local_batch": MOST_BATCH, "samples": MOST_COUNT, "saved_step": MOST_COUNT},
        {"steps_total": None, "timed_s": 1e-300, "timed_steps": 0, "accumulation": 0, "generation": MOST_BATCH},
    ],
)
def test_the_most_extreme_that_is_believed_ends_no_controller(bench: Bench, extreme: dict[str, Any]) -> None:
    bench.steps_total = 10_000
    victim, odd = bench.submit(gpus="1..4"), bench.submit(gpus="1..4", name="odd", batch=None)
    for job in (victim, odd):
        bench.until_trains(job)
    for life in range(2):
        for name, player in bench.engine.players.items():
            if name.gang == odd:
                player.advance = lambda: None  # type: ignore[method-assign]
        for turn in range(1, 8):
            for name in bench.engine.running():
                if name.gang == odd:
                    told = {"name": str(name), "step": 10 + turn, "timed_steps": turn, "timed_s": float(turn)} | extreme
                    folder = Mailbox(bench.directory / "jobs" / odd).directory / "ranks"
                    (folder / f"{name}.json").write_text(json.dumps(GOOD | {"generation": life + 1} | told))
            bench.turn(2)
            if odd in bench.controller.jobs:
                bench.service.explain(odd)
                bench.service.job(odd)
            bench.service.top()
        bench.restart()
    steps = bench.controller.jobs[victim].steps
    bench.until(lambda: bench.controller.jobs[victim].steps > steps)
    assert bench.job(victim).failures == 0
