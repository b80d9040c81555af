"""Read the Acme logs of Shanghai AI Laboratory, 2023: two clusters that trained InternLM (Hu et al., NSDI'24).

``trace_seren.csv`` and ``trace_kalos.csv`` (InternLM/AcmeTrace) hold Slurm's and Kubernetes' jobs in one layout; times
have an offset. There are no virtual clusters; ``type`` is the kind of work (Pretrain, SFT, MLLM, Eval, Debug, Other).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import Unusable, gpu_count, number, ran_s, seconds, text
from powerflow.trace.formats.format import Entry, Format, csv_entries, header_of
from powerflow.trace.formats.slurm import outcome_of
from powerflow.trace.record import TraceJob

_NEEDED = frozenset({"job_id", "gpu_num", "state", "submit_time", "duration"})
_TELLING = _NEEDED | {"type", "queue"}  # no other format has all of these
_NOT_ENDED = {"RUNNING", "PENDING", "SUSPENDED"}


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    state = text(row, "state").upper()
    if state in _NOT_ENDED:
        raise Unusable(f"not ended ({state})")
    return TraceJob(
        id=text(row, "job_id") or f"acme-{line}",
        submit_s=clock.epoch_s(row["submit_time"], "submit_time"),
        duration_s=ran_s(number(row["duration"], "duration")),
        gpus=gpu_count(number(row["gpu_num"], "gpu_num")),
        wait_s=seconds(row["queue"], "queue") if text(row, "queue") else None,
        project=text(row, "user"),
        outcome=outcome_of(state),
    )


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return csv_entries(stream, clock, "an Acme log", lambda header: _NEEDED - set(header), _job)


def _recognises(head: str) -> bool:
    header = set(header_of(head))
    return header >= _TELLING and "vc" not in header


ACME = Format(
    "acme",
    "an Acme log of LLM clusters",
    _recognises,
    _entries,
    time_zone="Asia/Shanghai",
    notes=("project is the user (the log has no virtual clusters)", "the kind of work (type) is not read"),
)
