"""What tests of gangs on several nodes do again and again."""

from __future__ import annotations

from powerflow.engine.protocol import RankName
from powerflow.gangs.types import Noted, Progressed, Started
from tests.gangs.bench import Bench, order, spec_of
from tests.gangs.fake_engine import Script

A0, B0, B1 = RankName("j", 1, 0), RankName("j", 1, 1), RankName("j", 1, 2)
SCRIPT = spec_of(rescale="restart", progress=r"step (?P<step>\d+)")


def start(bench: Bench, *slots: str) -> None:
    bench.gangs.apply([order(1, *slots)])
    bench.hear(Started)
    bench.hear(Progressed)


def turns(bench: Bench, count: int) -> None:
    for _ in range(count):
        bench.turn()


def step(bench: Bench, name: RankName) -> int:
    return next(int(rank["step"]) for rank in bench.gangs.standing("j") if rank["name"] == str(name))


def words(bench: Bench, kind: str) -> list[str]:
    return [event.text for event in bench.told(Noted) if event.kind == kind]


def start_script(bench: Bench, *slots: str) -> None:
    bench.engine.play = lambda spec: Script(10_000, line="step {turn}\n")
    bench.gangs.apply([order(1, *slots, spec=SCRIPT)])
    bench.hear(Started)
