"""Define the columns of the live tables of jobs and of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from powerflow.api.records import GpuRecord, JobRecord, NodeRecord
from powerflow.cli.cluster.job_table import bar, job_columns, mark, state, watts_column
from powerflow.cli.columns import Column
from powerflow.units import J_PER_KWH, fixed

#: Order in which columns are left out on a narrow terminal, the highest number first: what is not here stays.
_SPARE = {"step": 8, "user": 7, "batch": 6, "why": 5, "MHz": 4, "kWh": 3, "power": 2}
#: Columns of which the highest value is looked for first.
FALLING = frozenset({"GPUs", "MHz", "batch", "power", "kWh", "progress", "used"})
#: Width of the bars, in characters.
_BAR = 4


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One GPU and its node."""

    node: NodeRecord
    gpu: GpuRecord


def gpu_rows(nodes: Sequence[NodeRecord]) -> list[GpuRow]:
    """Return a row for each GPU of some nodes."""
    return [GpuRow(node, gpu) for node in nodes for gpu in node.gpus]


def live_job_columns(now_s: float) -> list[Column[JobRecord]]:
    """Return the columns of the live table of jobs, at a time in Unix seconds."""
    known = {column.name: column for column in job_columns(now_s)}
    progress = replace(known["progress"], cell=lambda job: bar(job.progress, _BAR))
    gpus = replace(known["GPUs"], value=lambda job: job.gpus, cell=known["GPUs"].value)
    ends = replace(known["ends in"], value=lambda job: job.eta_s, cell=known["ends in"].value)
    numbered = replace(known["id"], value=lambda job: int(job.id), cell=lambda job: job.id)
    batch = Column("batch", lambda job: job.local_batch, _batch, right=True)
    energy = Column("kWh", lambda job: job.energy_j, _kwh, right=True)
    mhz = replace(known["MHz"], value=lambda job: job.clock_read_mhz or job.clock_mhz, cell=known["MHz"].value)
    found = [
        numbered, known["name"], known["user"], known["state"], gpus, mhz, batch, known["power"], energy, progress,
        known["step"], ends, known["why"],
    ]  # fmt: skip
    return [replace(column, spare=_SPARE.get(column.name, 0)) for column in found]


def gpu_columns() -> list[Column[GpuRow]]:
    """Return the columns of the live table of GPUs."""
    return [
        Column("node", lambda row: row.node.name, least=8),
        Column("state", lambda row: row.node.state, lambda row: state(row.node.state)),
        Column("GPU", lambda row: row.gpu.index, right=True),
        Column("type", lambda row: row.node.gpu_type, spare=2, least=4),
        Column("job", lambda row: row.gpu.job_id or ("out" if row.gpu.out else None), right=True),
        Column("power", lambda row: row.gpu.power_w, right=True, alike=_gpu_powers),
        Column("MHz", lambda row: row.gpu.clock_mhz, lambda row: _mhz(row.gpu.clock_mhz), right=True),
        Column("locked", lambda row: row.gpu.locked_mhz, lambda row: _locked(row.gpu), right=True, spare=3),
        Column("used", lambda row: row.gpu.utilisation, lambda row: bar(row.gpu.utilisation), spare=1),
        Column("why", lambda row: row.gpu.out or row.node.reason, spare=4, least=12),
    ]


def _batch(job: JobRecord) -> str | None:
    if job.local_batch is None:
        return None
    return f"{job.local_batch}" + (f" × {job.accumulation}" if (job.accumulation or 1) > 1 else "")


def _kwh(job: JobRecord) -> str:
    return fixed(job.energy_j / J_PER_KWH, 3) + mark(job.emulated)


def _gpu_powers(rows: Sequence[GpuRow]) -> list[str]:
    return watts_column([(row.gpu.power_w, row.node.emulated) for row in rows])


def _mhz(clock_mhz: float | None) -> str | None:
    return None if clock_mhz is None else f"{clock_mhz:.0f}"


def _locked(gpu: GpuRecord) -> str | None:
    return _mhz(gpu.locked_mhz) if gpu.asked_mhz is None or gpu.locked_mhz is not None else f"asked {gpu.asked_mhz:.0f}"
