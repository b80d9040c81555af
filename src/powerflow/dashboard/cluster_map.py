"""Draw the map of the cluster: for each node its state, and for each GPU its job, clock and power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerflow import units
from powerflow.api.records import GpuRecord, NodeRecord
from powerflow.dashboard.shown import MARK, watts

#: Colours of jobs in the style sheet.
COLOURS = 9
#: Sign of each state of a node, so that nobody needs colours to tell them apart.
SIGNS = {"up": "●", "draining": "◐", "drained": "○", "asleep": "☾", "unreachable": "?", "failed": "✕"}
#: States of a node that its GPUs share.
_WHOLE = ("asleep", "unreachable", "failed")


@dataclass(frozen=True, slots=True)
class GpuTile:
    """One GPU of the map.

    Attributes:
        state: job, idle, asleep, unreachable, failed or out.
        job: Id of the job that holds it; "" if there is none.
        colour: Number of the job's colour, from 1; 0 for none.
        label: The job, or the state in words.
        clock, power: What the GPU reports; "" if it is not known.
        out: Why it is out of service; or "".
        title: Which GPU it is, and its job or state.
    """

    state: str
    job: str
    colour: int
    label: str
    clock: str
    power: str
    out: str
    title: str


@dataclass(frozen=True, slots=True)
class NodeTile:
    """One node of the map, with its GPUs. ``note`` says why it is not up, and which GPUs cannot be used; or ""."""

    name: str
    kind: str
    state: str
    sign: str
    label: str
    power: str
    note: str
    gpus: Sequence[GpuTile]


def colour_of(job_id: str | None) -> int:
    """Return the number of a job's colour, 1 to `COLOURS`; 0 for no job. Jobs that came together differ."""
    if not job_id:
        return 0
    return int(job_id) % COLOURS + 1 if job_id.isdecimal() else 1


def node_tiles(nodes: Sequence[NodeRecord], words: Mapping[str, str]) -> list[NodeTile]:
    """Return the map of the nodes, in the given order."""
    return [_node(node, words) for node in nodes]


def _node(node: NodeRecord, words: Mapping[str, str]) -> NodeTile:
    known = [gpu.power_w for gpu in node.gpus if gpu.power_w is not None]
    notes = [node.reason] if node.reason else []
    notes += [f"{words['left_out']}: {line}" for line in node.left_out]
    return NodeTile(
        name=node.name,
        kind=node.gpu_type,
        state=node.state,
        sign=SIGNS.get(node.state, "?"),
        label=words.get(f"node_{node.state}", node.state),
        power=watts(sum(known) if known else None, node.emulated),
        note="; ".join(notes),
        gpus=[_gpu(node, gpu, words) for gpu in node.gpus],
    )


def _gpu(node: NodeRecord, gpu: GpuRecord, words: Mapping[str, str]) -> GpuTile:
    state = _state(node, gpu)
    clock = "" if gpu.clock_mhz is None else f"{gpu.clock_mhz:.0f} MHz"
    power = "" if gpu.power_w is None else f"{gpu.power_w:.0f} W{MARK if node.emulated else ''}"
    label = gpu.job_id or words[f"gpu_{state}"]
    what = [f"{words['gpu_job']} {gpu.job_id}"] if gpu.job_id else []
    what += [words[f"gpu_{state}"]] if state != "job" else []
    what += [gpu.out] if gpu.out else []
    return GpuTile(
        state=state,
        job=gpu.job_id or "",
        colour=colour_of(gpu.job_id),
        label=label,
        clock=clock,
        power=power,
        out=gpu.out,
        title=words["gpu_title"].format(index=gpu.index, node=node.name, what=", ".join(what) or units.NOTHING),
    )


def _state(node: NodeRecord, gpu: GpuRecord) -> str:
    if node.state in _WHOLE:
        return node.state
    if gpu.out:
        return "out"
    return "job" if gpu.job_id else "idle"
