"""Read the Acme logs of Shanghai AI Laboratory (2023): two clusters that trained InternLM (Hu et al., NSDI'24).

``trace_seren.csv`` (Slurm) and ``trace_kalos.csv`` (Kubernetes) have the same columns; they are in InternLM/AcmeTrace
on GitHub. Times have an offset from UTC. The column ``type`` is the kind of work (Pretrain, SFT, MLLM, Eval, Debug,
Other).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TextIO

from powerflow.trace.clock import Clock
from powerflow.trace.fields import text
from powerflow.trace.formats.format import Entry, Format, csv_entries, header_of
from powerflow.trace.formats.helios import NEEDED, ended_job
from powerflow.trace.formats.slurm import outcome_of
from powerflow.trace.record import TraceJob

_TELLING = NEEDED | {"type", "queue"}  # no other format has all of these


def _job(row: Mapping[str, str], line: int, clock: Clock) -> TraceJob:
    state = text(row, "state").upper()
    return ended_job(row, line, clock, "acme", state, outcome_of(state))


def _entries(stream: TextIO, clock: Clock) -> Iterator[Entry]:
    return csv_entries(stream, clock, "an Acme log", lambda header: NEEDED - set(header), _job)


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
