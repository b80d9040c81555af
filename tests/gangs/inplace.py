"""What tests of in-place gangs do again and again."""

from __future__ import annotations

from powerflow.engine.protocol import RankName
from powerflow.gangs.types import (
    Started,
)
from tests.gangs.bench import Bench, order


def start(bench: Bench, *slots: str, job_id: str = "j") -> list[RankName]:
    bench.gangs.apply([order(1, *slots, job_id=job_id)])
    bench.hear(Started, job_id)
    return bench.engine.running(job_id)


def step(bench: Bench, job_id: str = "j") -> int:
    return max(int(rank["step"]) for rank in bench.gangs.standing(job_id) if "step" in rank)
