"""Read from a controller of PowerFlow what the GPUs of its machines draw, and which of its jobs hold them.

The agents on the machines are not asked: an agent obeys one controller, and this one reads every machine once a second
already. A look takes one to three requests; a viewer's token is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from powerflow.api import operations as ops
from powerflow.api.records import GpuRecord, JobRecord, JobState, NodeRecord
from powerflow.cli.cluster.client import ControllerClient
from powerflow.errors import InputError
from powerflow.osutil.host_names import short_host
from powerflow.units import duration
from powerflow.watch.owners import GpuAddress, Holding, OwnersLook, WatchedJob
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import GpuSeries, series_of

#: The user gets a note if the newest reading is this much older or newer than this machine's clock, seconds.
_CLOCK_OFF_S = 60.0
#: The end of a job is looked for from this long before the last look on, seconds.
_BACK_S = 60.0


class ControllerGpus:
    """The GPUs of a controller's machines, as a source of readings.

    Attributes:
        client: Asks the controller.
        holders: Number of the job that holds a GPU, by the last reading; None if the controller did not answer.
        asked_s: When it was asked for that, Unix seconds.
    """

    def __init__(self, client: ControllerClient) -> None:
        """Prepare to read; nothing is asked yet."""
        self.client = client
        self.holders: dict[GpuAddress, str] | None = None
        self.asked_s = math.nan

    @property
    def name(self) -> str:
        """What it is, for the user."""
        return f"the controller at {self.client.url}"

    def read(self, since_s: float, until_s: float) -> Readings:  # a controller keeps no history of readings
        """Return the last reading of each GPU.

        Raises:
            InputError: The controller cannot be reached, or refuses the token.
        """
        self.holders, self.asked_s = None, until_s
        series: dict[GpuAddress, GpuSeries] = {}
        cards: dict[GpuAddress, Card] = {}
        holders: dict[GpuAddress, str] = {}
        twice: set[GpuAddress] = set()
        found = self.client.ask(ops.NODES).items
        for node, gpu in [(each, gpu) for each in found for gpu in each.gpus]:
            address = _address(node, gpu)
            if address in cards:
                twice.add(address)
                continue
            cards[address] = Card(gpu.uuid, node.gpu_type, _number(gpu.power_limit_w), node.emulated)
            series[address] = _series(gpu, until_s)
            if gpu.job_id is not None:
                holders[address] = gpu.job_id
        if not cards:
            raise InputError(
                "has no GPUs yet", where=self.name, fix="start powerflow agent on the machines", exit_code=5
            )
        self.holders = holders
        notes = [f"{len(twice)} GPUs have the address of another one ({min(twice)}), and are not read"] if twice else []
        notes += _clock_notes(series.values(), until_s)
        return Readings(series, cards, notes=[f"{self.name}: {note}" for note in notes])


class ControllerJobs:
    """The jobs of a controller, as a source of owners."""

    name = "the controller's own jobs"

    def __init__(self, gpus: ControllerGpus) -> None:
        self._gpus = gpus
        self._looked_s = math.nan
        self._held: dict[tuple[str, GpuAddress], Holding] = {}
        self._jobs: dict[str, WatchedJob] = {}

    def look(self, now_s: float) -> OwnersLook:
        """Return who holds GPUs, as of their last reading, and who gave some back since the last look.

        Raises:
            InputError: The controller did not answer.
        """
        holders = self._gpus.holders
        if holders is None:
            raise InputError("did not answer", where=self._gpus.name, exit_code=5)
        at_s = min(self._gpus.asked_s, now_s)
        holding = [*dict.fromkeys(holders.values())]
        records = self._records(bool(holding))
        before = self._jobs or {id: _job(id, each, at_s) for id, each in records.items() if each.started_s is not None}
        jobs = before | {id: _job(id, records.get(id), at_s) for id in holding if id not in before}
        keys = [(jobs[id], gpu) for gpu, id in holders.items()]
        held = {(job.key, gpu): self._held.get((job.key, gpu)) or self._begun(job, gpu, at_s) for job, gpu in keys}
        ended = self._ended({id: job for id, job in jobs.items() if id not in holding})
        told = {job.key: job for job in (jobs | ended).values()}
        # a job that waits again will go on: it must not be forgotten meanwhile
        self._jobs = {id: job for id, job in jobs.items() if id not in ended}
        self._held, self._looked_s = held, at_s
        return OwnersLook(at_s, told, [*held.values()])

    def _records(self, needed: bool) -> dict[str, JobRecord]:
        """Return the jobs that run; at the first look, also those that wait to go on."""
        states = [JobState.RUNNING]
        if math.isnan(self._looked_s):
            states += [JobState.QUEUED, JobState.HELD]
        elif not needed:
            return {}
        return {each.id: each for each in self._gpus.client.jobs(states=states, completing=True)}

    def _ended(self, jobs: Mapping[str, WatchedJob]) -> dict[str, WatchedJob]:
        """Return those of some jobs that have ended since the last look, with their ends."""
        if not jobs or math.isnan(self._looked_s):
            return {}
        found = self._gpus.client.history(since_s=max(self._looked_s - _BACK_S, 0.0))
        return {
            each.id: replace(job, end_s=max(each.ended_s, job.start_s), state=str(each.state))
            for each in found
            if (job := jobs.get(each.id)) is not None
        }

    def _begun(self, job: WatchedJob, gpu: GpuAddress, now_s: float) -> Holding:
        """Return the holding of a job that was not seen on a GPU before."""
        before_s = self._looked_s
        if math.isnan(before_s) or before_s <= job.start_s <= now_s:
            return Holding(job.key, gpu, job.start_s, None)
        # it has moved, or has got more GPUs: nobody tells when
        return Holding(job.key, gpu, (before_s + now_s) / 2, None, slack_s=(now_s - before_s) / 2)


def _address(node: NodeRecord, gpu: GpuRecord) -> GpuAddress:
    return GpuAddress(short_host(node.name), gpu.index if gpu.driver_index is None else gpu.driver_index)


def _series(gpu: GpuRecord, now_s: float) -> GpuSeries:
    """Return a GPU's last reading; a controller that does not tell its time has read it a second ago at most."""
    values = {
        "energy_j": _number(gpu.energy_j),
        "power_w": _number(gpu.power_w),
        "clock_mhz": _number(gpu.clock_mhz),
        "utilisation": _number(gpu.utilisation),
    }
    columns = {name: np.array([value]) for name, value in values.items()}
    return series_of(np.array([now_s if gpu.read_s is None else gpu.read_s]), **columns)


def _job(id: str, record: JobRecord | None, now_s: float) -> WatchedJob:
    if record is None:  # it has ended between the two requests
        return WatchedJob(f"powerflow:{id}", id, now_s)
    return WatchedJob(
        f"powerflow:{id}",
        id,
        now_s if record.started_s is None else record.started_s,
        name=record.name,
        user=record.user,
        account=record.project,
        submitted_s=record.submitted_s,
        state=str(record.state),
    )


def _clock_notes(series: Iterable[GpuSeries], now_s: float) -> Sequence[str]:
    """Return a note if the newest reading is far from this machine's clock."""
    newest_s = max((float(each.time_s[-1]) for each in series), default=now_s)
    if abs(newest_s - now_s) <= _CLOCK_OFF_S:
        return []
    if newest_s > now_s:
        return [f"its clock is {duration(newest_s - now_s)} ahead of this machine's"]
    return [f"its newest reading is {duration(now_s - newest_s)} old: its machines are silent, or its clock is behind"]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
