"""Stands for the controller: launches ranks, posts targets, sees deaths. Knows nothing of training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from powerflow.elastic.mailbox import Mailbox, Member, Phase, RankReport, Target
from tests.elastic import small, trainee
from tests.processes import CONTEXT

DEADLINE_S = 30.0


class Supervisor:
    """One job and its processes."""

    def __init__(
        self,
        directory: Path,
        *,
        epochs: int = 4,
        workers: int = 0,
        local_batch_max: int = 0,
        checkpoint_s: float = 0.0,
        script: str = "",
    ) -> None:
        self.directory = directory
        self.mailbox = Mailbox(directory)
        self.mailbox.create()
        (directory / "log").mkdir()
        self.epochs = epochs
        self.workers = workers
        self.script = script  # of `small`; without one they are trainees
        self.steps = epochs * trainee.STEPS_PER_EPOCH
        self.local_batch_max = local_batch_max
        self.checkpoint_s = checkpoint_s
        self.processes: dict[str, BaseProcess] = {}
        self.members: list[str] = []
        self.generation = 0
        self.allowed = 0
        self.allow(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.join()
            process.close()

    def allow(self, steps: int) -> None:
        """Let the gang do so many steps, counted from the start."""
        self.allowed = steps
        path = self.directory / ".allowed"
        path.write_text(str(steps))
        path.replace(self.directory / "allowed")

    def launch(self, count: int, fault: str = "", environment: Mapping[str, str] | None = None) -> list[str]:
        """Start ranks."""
        names = [f"job.1.{len(self.processes) + i}" for i in range(count)]
        for name in names:
            if self.script:
                process = CONTEXT.Process(target=small.main, args=(self.script, str(self.directory), name))
            else:
                process = CONTEXT.Process(
                    target=trainee.main, args=(str(self.directory), name, self.epochs, fault, environment, self.workers)
                )
            process.start()
            self.processes[name] = process
        return names

    def post(self, members: Sequence[str], lost: Iterable[str] = ()) -> int:
        """Say what the gang shall be, and whom nobody reaches."""
        leaving = [name for name in self.members if name not in members and self.alive(name) and name not in lost]
        self.generation += 1
        self.members = list(members)
        self.mailbox.post_target(
            Target(
                self.generation,
                tuple(Member(name, self.node(name)) for name in members),
                self.local_batch_max,
                checkpoint_s=self.checkpoint_s,
                lost=tuple(lost),
                leaving=tuple(leaving),
            )
        )
        return self.generation

    def node(self, name: str) -> str:
        """Where a rank runs."""
        return "here"

    def report(self, name: str) -> RankReport | None:
        found = self.mailbox.reports([name])
        return found[0] if found else None

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until a condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come about\n{self.story()}")
            time.sleep(0.004)

    def alive(self, name: str) -> bool:
        return self.processes[name].is_alive()

    def ready(self, names: Sequence[str]) -> bool:
        """Whether all have been built."""
        reports = self.mailbox.reports(names)
        return len(reports) == len(names) and all(r.phase is not Phase.STARTING for r in reports)

    def wait_ready(self, names: Sequence[str]) -> None:
        self.wait(lambda: self.ready(names), f"{names} ready")

    def drive(self, condition: Callable[[], bool], what: str) -> None:
        """Allow steps one by one until a condition holds: it need not hurry to come about before the run's end."""

        def there() -> bool:
            if condition():
                return True
            # Only when all stand at the last allowed step, so that no more is allowed than needed.
            if max((r.step for r in self.mailbox.reports(list(self.processes))), default=0) >= self.allowed - 1:
                self.allow(self.allowed + 1)
            return False

        self.wait(there, what)

    def wait_killed(self, name: str) -> None:
        """Until a rank with a fault has come to it: the run cannot end before."""
        self.drive(lambda: not self.alive(name), f"the kill of {name}")

    def in_generation(self) -> bool:
        """Whether all members belong to the newest generation."""
        reports = self.mailbox.reports(self.members)
        return len(reports) == len(self.members) and all(r.generation == self.generation for r in reports)

    def wait_generation(self) -> None:
        """Until all members belong to the newest generation."""
        self.wait(self.in_generation, f"generation {self.generation}")

    def rescale(self, members: Sequence[str]) -> None:
        """Post a target and drive the gang into it."""
        self.post(members)
        self.wait_ready(members)
        self.drive(self.in_generation, f"generation {self.generation}")

    def start(self, count: int, faults: Mapping[int, str] = MappingProxyType({})) -> list[str]:
        """Launch a first gang and see it train; ``faults`` by rank."""
        names = [self.launch(1, faults.get(i, ""))[0] for i in range(count)]
        self.post(names)
        self.wait_generation()
        return names

    def run_out(self) -> None:
        """Let the gang train to its end, replacing nobody; deaths are answered with a target of those that live."""
        self.allow(10**9)

        def ended() -> bool:
            self.tend()
            return all(not self.alive(name) for name in self.members)

        self.wait(ended, "the end")
        for name in self.members:
            self.processes[name].join()

    def tend(self) -> None:
        """What the controller does about deaths: a target of those that are left."""
        dead = [n for n in self.members if not self.alive(n) and self.processes[n].exitcode != 0]
        left = [n for n in self.members if n not in dead]
        if dead and left:
            self.post(left)

    def codes(self) -> dict[str, int | None]:
        for process in self.processes.values():
            process.join(DEADLINE_S)
        return {name: process.exitcode for name, process in self.processes.items()}

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """What the ranks have logged."""
        found = []
        for path in sorted((self.directory / "log").glob("*[0-9]")):
            found += [{"name": path.name, **json.loads(line)} for line in path.read_text().splitlines()]
        return [entry for entry in found if entry["kind"] == kind]

    def story(self) -> str:
        """For whoever has to find out why."""
        lines = [f"target {self.mailbox.target()}", f"switch {self.mailbox.switch()}", f"allowed {self.allowed}"]
        lines += [f"{n} code {p.exitcode} {self.report(n)}" for n, p in self.processes.items()]
        for path in sorted((self.directory / "log").glob("*.err")):
            lines.append(f"{path.name}: {path.read_text()[-1500:]}")
        return "\n".join(lines)
