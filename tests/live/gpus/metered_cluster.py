"""Machines with GPUs whose energy a controller takes: their disks may be full, and their agents be killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from powerflow.agent.devices import NodeDevices
from powerflow.api.job_spec import JobSpec
from powerflow.engine.devices import Report
from powerflow.live.gpus.gpus import ClusterGpus
from powerflow.osutil.files import replace_json
from powerflow.store.store import Store
from tests.agent.cards import Card
from tests.live.controller_bench import made_database


class Cluster:
    """Machines with two cards each, a link to each that can be cut, a store, and a controller that can be killed."""

    def __init__(self, directory: Path, names: Sequence[str] = ("m", "n")) -> None:
        self.directory, self.now_s, self.wall_s = directory, 1000.0, 1.8e9
        (directory / "store.db").write_bytes(made_database().read_bytes())
        self.cards = {name: [Card(f"{name}{i}", i) for i in range(2)] for name in names}
        for name, cards in self.cards.items():
            for card in cards:
                card.node, card.time_s = name, self.now_s
        self.boots = dict.fromkeys(names, "first")
        self.devices = {name: self.agent(name) for name in names}
        self.cut: set[str] = set()
        self.full: set[str] = set()
        self.arrived: dict[str, Report] = {}
        self.asked: list[tuple[str, Mapping[str, float]]] = []
        self.names = list(names)
        self.start()

    def agent(self, name: str) -> NodeDevices:
        """As after SIGKILL: another agent on the same disk."""
        return NodeDevices(
            self.directory / name,
            self.cards[name],
            machine=name,
            clock=lambda: self.now_s,
            reading_clock=lambda: self.now_s,
            boot=self.boots[name],
            claim=False,
        )

    def start(self) -> None:
        """A controller, as after SIGKILL."""
        self.arrived.clear()
        self.store = Store(f"sqlite:///{self.directory / 'store.db'}")
        self.gpus = ClusterGpus(self, self.store)
        self.gpus.start(self.wall_s)

    def job(self) -> str:
        spec = JobSpec.model_validate({"run": "true", "gpus": 1})
        return self.store.submit(spec, "ada", self.wall_s)[0].id

    def turn(self, seconds: float = 1.0, watts: float = 100.0) -> None:
        self.pass_time(seconds, watts)
        if self.gpus.due():
            self.gpus.settle(self.wall_s)

    def pass_time(self, seconds: float = 1.0, watts: float = 100.0) -> None:
        self.now_s += seconds
        self.wall_s += seconds
        for name, cards in self.cards.items():
            for card in cards:
                card.draw(watts, seconds)
            self.devices[name].turn()

    def save(self) -> None:
        self.gpus.save(self.store)

    def replace_json(self, path: Path, content: Mapping[str, Any], **options: Any) -> None:
        """What a machine writes a file with, if its disk is not full."""
        if path.parent.name in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace_json(path, content, **options)

    def stored_j(self) -> tuple[float, float, float]:
        return self.store.charges.totals()

    # a `DeviceSource`

    def machines(self) -> Sequence[str]:
        return self.names

    def describe(self, machine: str) -> Sequence[Mapping[str, Any]]:
        found: list[dict[str, Any]] = json.loads(json.dumps(self.devices[machine].describe()))
        return found

    def report(self, machine: str) -> Report | None:
        if machine not in self.cut:
            self.arrived[machine] = json.loads(json.dumps(self.devices[machine].report()))
        return self.arrived.get(machine)

    def want(self, machine: str, clocks_mhz: Mapping[str, float]) -> None:
        self.asked.append((machine, clocks_mhz))
        if machine not in self.cut:
            self.devices[machine].want(clocks_mhz)

    def acknowledge(self, machine: str, ledger: str, version: int, audit: int) -> None:
        if machine not in self.cut:
            self.devices[machine].acknowledge(ledger, version, audit)


@contextlib.contextmanager
def made_cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster whose machines' disks can be full."""
    cluster = Cluster(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("powerflow.agent.ledger.replace_json", cluster.replace_json)
        cluster.turn(0.0)
        yield cluster
