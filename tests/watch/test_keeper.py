"""What was settled is kept, also over a disk that is full for a while."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerflow.errors import InputError
from powerflow.watch.keeper import Keeper
from powerflow.watch.ledger import WatchLedger
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.readings import Readings
from powerflow.watch.series import series_of
from powerflow.watch.watcher import Watcher


def test_what_cannot_be_written_now_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full for two looks; nothing is lost, and the number of GPUs of an ended job stays."""
    job = WatchedJob("slurm:1@1", "1", 0.0, 600.0, user="ada")
    watcher, ledger = Watcher(), WatchLedger(tmp_path / "w.db")
    kept = Keeper(watcher, ledger)
    gpu, save = GpuAddress("n1", 0), ledger.save

    def full(*_: object) -> None:
        raise InputError("cannot be written: database or disk is full")

    for now_s in range(15, 4000, 15):
        series = series_of(np.array([float(now_s)]), energy_j=np.array([100.0 * now_s]))
        holding = [Holding(job.key, gpu, 0.0, None)] if now_s < 600 else []
        known = replace(job, end_s=None) if now_s < 600 else job
        watcher.take(Readings({gpu: series}, {}), OwnersLook(now_s, {job.key: known} if now_s < 900 else {}, holding))
        monkeypatch.setattr(ledger, "save", full if 300 < now_s < 1000 else save)
        notes = kept.settle(now_s, all_of_it=False)
        assert bool(notes) is (300 < now_s < 1000 and bool(kept._waiting.jobs or kept._waiting.others))
    (row,) = ledger.jobs(0.0, 5000.0)
    others = ledger.others(0.0, 5000.0)
    ledger.close()
    assert (row.gpus, row.job.end_s) == (1, 600.0)
    assert row.use.energy_j == pytest.approx(58_500.0, rel=0.02)
    settled_s = watcher.tracks[gpu].settled_s
    assert row.use.energy_j + sum(use.energy_j for use in others.values()) == pytest.approx(
        100.0 * (settled_s - 15.0), rel=1e-3
    )


def test_a_job_that_comes_back_under_its_old_key_after_a_restart_replaces_nothing(tmp_path: Path) -> None:
    """Labels name a pod or a job by the same key again; its row of an hour ago stays."""
    energies = []
    for start_s in (0.0, 3600.0):
        watcher, ledger = Watcher(), WatchLedger(tmp_path / "w.db")
        kept, gpu = Keeper(watcher, ledger), GpuAddress("n1", 0)
        job = WatchedJob("job:1", "1", start_s)
        for now_s in np.arange(start_s + 15.0, start_s + 3600.0, 15.0):
            series = series_of(np.array([now_s]), energy_j=np.array([100.0 * now_s]))
            runs = now_s < start_s + 600.0
            holding = [Holding(job.key, gpu, start_s, None)] if runs else []
            look = OwnersLook(float(now_s), {job.key: job} if runs else {}, holding)
            watcher.take(Readings({gpu: series}, {}), look)
            assert not kept.settle(float(now_s), all_of_it=False)
        energies.append([row.use.energy_j for row in ledger.jobs(0.0, 1e4)])
        ledger.close()
    assert [len(each) for each in energies] == [1, 2]
    assert energies[1][0] == energies[0][0] == pytest.approx(58_500.0, rel=0.03)
