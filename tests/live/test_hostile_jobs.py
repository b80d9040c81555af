"""What a job asks for, where it runs and what is left of it after a bad day: none of it is another job's problem."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.api.pages import RecordFilter
from powerflow.api.records import JobState, Refused
from powerflow.engine.protocol import RankName
from powerflow.gangs.types import GangFailed, Limits, Started
from tests.gangs.bench import Bench as GangBench
from tests.gangs.bench import order, spec_of
from tests.gangs.fake_engine import Script
from tests.live.controller_bench import Bench


def boot(bench: Bench | GangBench, name: RankName, code: int | None) -> None:
    """The machine went down, and is up again."""
    bench.engine.end(name, code)
    bench.engine.statuses[name] = replace(bench.engine.statuses[name], rebooted=True)


@pytest.mark.parametrize("rescale", ["in-place", "none"])
@pytest.mark.parametrize("code", [None, -15, 0])
def test_a_boot_costs_no_retry(bench: Bench, rescale: str, code: int | None) -> None:
    bench.steps_total = 10_000
    if rescale == "none":
        bench.engine.play = lambda spec: Script(10_000)
    job = bench.submit(rescale=rescale, retries=0)
    bench.until(lambda: bool(bench.engine.running()))
    bench.turn(5)
    for _ in range(3):
        for name in bench.engine.running():
            boot(bench, name, code)
        bench.restart()
        bench.until(lambda: bool(bench.engine.running()))
        bench.turn(5)
    assert bench.job(job).state is JobState.RUNNING
    assert bench.job(job).failures == 0
    said = [
        event.text
        for event in bench.store.events(limit=1000, only=RecordFilter(job_id=job)).items
        if event.kind == "requeued"
    ]
    assert said == ["the machine was restarted"] * 3


def test_an_engine_that_lost_its_records_costs_no_retry(bench: Bench) -> None:
    bench.steps_total = 10_000
    job = bench.submit(retries=0)
    bench.until_trains(job)
    for name in bench.engine.running():
        del bench.engine.statuses[name], bench.engine.players[name]
    bench.restart()
    bench.until(lambda: bool(bench.engine.running()))
    bench.turn(3)
    assert (bench.job(job).state, bench.job(job).failures) == (JobState.RUNNING, 0)


def test_the_most_grace_is_the_administrators(tmp_path: Path) -> None:
    bench = GangBench(tmp_path)
    bench.gangs._context.limits = replace(bench.gangs._context.limits, grace_s=6.0)
    spec = spec_of(rescale="none", checkpoint={"grace": 1e9})
    bench.engine.play = lambda spec: Script(10_000)
    bench.gangs.apply([order(1, "a0", spec=spec)])
    bench.hear(Started)
    (name,) = bench.engine.running()
    bench.engine.stubborn.add(name)
    bench.gangs.kill("j")
    began_s = bench.engine.now_s
    bench.until(lambda: not bench.engine.running())
    assert 5.0 <= bench.engine.now_s - began_s <= 8.0
    bench.gangs.close()


def test_who_asks_for_more_grace_than_there_is_is_told_at_once(bench: Bench) -> None:
    most_s = Limits().grace_s
    with pytest.raises(Refused, match=rf"checkpoint.grace is 1e\+09 s, the most here is {most_s:g} s; .*--max-grace"):
        bench.submit(checkpoint={"grace": 1e9})
    bench.submit(checkpoint={"grace": most_s})
    bench.gangs._context.limits = replace(bench.gangs._context.limits, grace_s=5.0)
    bench.submit(checkpoint={})  # it has not asked, and gets 5 s
    with pytest.raises(Refused, match="the most here is 5 s"):
        bench.submit(checkpoint={"grace": 20.0})


def test_what_was_decided_after_a_backup_ends_and_starts_again(bench: Bench, tmp_path: Path) -> None:
    """The store is yesterday's: it has the job queued, or on other GPUs. Two of it must never run."""
    bench.steps_total = 10_000
    job = bench.submit(gpus=2)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(bench.directory / "store.db")) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
        copy.execute("DELETE FROM claims")  # its lease is long over
        copy.commit()
    bench.until_trains(job)
    bench.turn(5)
    before = bench.engine.running()
    bench.die()
    for file in bench.directory.glob("store.db*"):
        file.unlink()
    shutil.copy(backup, bench.directory / "store.db")
    bench.start()
    assert bench.job(job).state is JobState.QUEUED
    bench.until(lambda: bool(bench.engine.running()) and not set(before) & set(bench.engine.running()))
    assert {name.gang for name in bench.engine.running()} == {job}
    assert len(bench.engine.running()) == 2
    assert min(name.epoch for name in bench.engine.running()) > max(name.epoch for name in before)
    bench.until_trains(job)


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"{}", b'{"ranks": 3}', b"[" * 100_000])
def test_a_book_that_a_power_cut_tore_fails_its_job_only(bench: Bench, content: bytes) -> None:
    bench.steps_total = 10_000
    victim, torn = bench.submit(), bench.submit()
    for job in (victim, torn):
        bench.until_trains(job)
    bench.die()
    (bench.directory / "gangs" / f"{torn}.json").write_bytes(content)
    bench.start()
    bench.until_state(torn, JobState.FAILED)
    assert "cannot be read" in bench.job(torn).exit
    bench.turn(3)
    assert {name.gang for name in bench.engine.running()} == {victim}
    assert bench.job(victim).state is JobState.RUNNING


def test_a_spec_that_is_no_longer_one_fails_its_job_only(bench: Bench) -> None:
    bench.steps_total = 10_000
    victim, old = bench.submit(), bench.submit()
    bench.until_trains(victim)
    bench.die()
    with closing(sqlite3.connect(bench.directory / "store.db")) as database:
        database.execute("UPDATE jobs SET spec = ? WHERE id = ?", ('{"run": 7, "of a later version": true}', int(old)))
        database.commit()
    bench.start()
    bench.until_state(old, JobState.FAILED)
    assert "cannot read the job's record" in bench.job(old).exit
    assert [job.id for job in bench.store.jobs().items] == [old, victim]
    bench.until_trains(victim)


@pytest.mark.parametrize("spoil", ["target.json", "ranks"])
def test_a_mailbox_that_is_none_any_more_fails_its_job(tmp_path: Path, spoil: str) -> None:
    bench = GangBench(tmp_path)
    bench.gangs.apply([order(1, "a0")])
    bench.hear(Started)
    bench.gangs.apply([order(2)])
    bench.until(lambda: not bench.engine.running())
    place = tmp_path / "jobs" / "j" / spoil
    if spoil == "ranks":
        shutil.rmtree(place)
        place.write_text("no folder")
    else:
        place.unlink()
        (place / "full").mkdir(parents=True)
    bench.gangs.apply([order(3, "a1")])
    failed = bench.hear(GangFailed)
    assert "somebody has replaced a file of its mailbox" in failed.text
    bench.gangs.close()
