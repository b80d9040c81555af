"""``powerflow serve --engine ray`` without an address starts a Ray of its own machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from powerflow.testing.hosts import Hosts, why_not
from tests.slow import slow

pytest.importorskip("ray")
pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]

POWERFLOW = (sys.executable, "-c", "from powerflow.cli.main import run; run()")
PATIENCE_S = 120.0


class Serving:
    """A controller with an embedded Ray, on a host of its own: Ray's processes and the agent are easy to find there."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.log = hosts, home / "controller.log"
        self.state = hosts.disk(1) / "state"
        hosts.output(1, ["sh", "-c", "mkdir /run/var-tmp && mount --bind /run/var-tmp /var/tmp"])
        words = ["serve", "--engine", "ray", "--ray-emulate", "1x4:A100", "--interval", "1"]
        with self.log.open("w") as log:
            env = {"POWERFLOW_PRELOAD": "", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "/tmp"}
            command = [*POWERFLOW, *words, "--state-dir", str(self.state)]
            self.process = hosts.run(1, command, env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(self, *words: str) -> Any:
        return json.loads(self.hosts.output(1, [*POWERFLOW, *words, "--state-dir", str(self.state), "--json"]))

    def pids(self, words: str) -> list[str]:
        found = ["sh", "-c", f"pgrep -f '{words}' || :"]
        return [pid for pid in self.hosts.output(1, found).split() if pid != "1"]

    def until(self, reached: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline_s, self.log.read_text()[-3000:]
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.3)

    def ranks(self, job: str) -> list[tuple[str, int]]:
        return [(rank["state"], rank["pid"]) for rank in self.ask("describe", job)["ranks"]]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Hosts(1, tmp_path) as hosts:
        yield Serving(hosts, tmp_path)


def test_a_controller_brings_its_own_ray(serving: Serving) -> None:
    serving.until((serving.state / "server.json").exists)
    node = serving.hosts.name(1)
    serving.until(lambda: [each["state"] for each in serving.ask("node", "list")["nodes"]] == ["up"])

    done = serving.ask("submit", "-o", "none", "--gpus", "2", "--run", "hostname")["job"]["id"]
    serving.until(lambda: bool(serving.ask("describe", done)["job"]["state"] == "completed"))
    assert serving.hosts.output(1, [*POWERFLOW, "logs", done, "--state-dir", str(serving.state)]).split() == [node]

    # the end of Ray ends neither rank nor controller; there is another Ray, with the same agent
    long = serving.ask("submit", "-o", "none", "--gpus", "4", "--run", "sleep 600")["job"]["id"]
    serving.until(lambda: [state for state, _ in serving.ranks(long)] == ["running"])
    before = serving.ranks(long)
    (gateway,) = serving.pids("powerflow.engine.ray.gatewa[y]")
    serving.hosts.output(1, ["kill", "-9", gateway])
    serving.until(lambda: serving.pids("powerflow.engine.ray.gatewa[y]") not in ([], [gateway]))
    serving.until(lambda: "a node does not answer" in serving.log.read_text())
    serving.until(lambda: serving.ranks(long) == before)

    # with its jobs gone, the controller leaves nothing behind
    serving.ask("cancel", long)
    serving.until(lambda: bool(serving.ask("describe", long)["job"]["state"] == "cancelled"))
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(PATIENCE_S) == 0, serving.log.read_text()[-3000:]
    deadline_s = time.monotonic() + PATIENCE_S
    while left := serving.pids("gcs_serve[r]|rayle[t]|powerflo[w]"):
        assert time.monotonic() < deadline_s, serving.hosts.output(1, ["ps", "-o", "pid,args", "-p", ",".join(left)])
        time.sleep(0.3)
    assert os.listdir(serving.state)  # what the store knows stays
