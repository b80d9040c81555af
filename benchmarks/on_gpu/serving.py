"""A controller over the card, and its commands: ``powerflow serve --mode observe``, which sets no clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.running import ROOT

_COMMAND = (sys.executable, "-m", "powerflow")
_SERVE = ("serve", "--port", "0", "--interval", "1", "--mode", "observe", "--explore-steps", "0")


class Served:
    """A running controller.

    Attributes:
        up_s: Seconds from its start until it answered.
    """

    def __init__(self, directory: Path) -> None:
        self._state = directory / "state"
        self._env = {**os.environ, "POWERFLOW_STATE": str(self._state), "NO_COLOR": "1"}
        self._env.pop("POWERFLOW_URL", None)
        self._log = (directory / "serve.log").open("w+")
        began_s = time.monotonic()
        self._process = subprocess.Popen(
            [*_COMMAND, *_SERVE], env=self._env, stdout=self._log, stderr=self._log, cwd=ROOT
        )
        while not (self._state / "server.json").exists():
            if self._process.poll() is not None or time.monotonic() - began_s > 45:
                raise RuntimeError(f"serve did not begin: {self.log()[-800:]}")
            time.sleep(0.1)
        self.up_s = time.monotonic() - began_s

    def ask(self, *words: str) -> dict[str, Any]:
        """What a command says, with --json."""
        done = subprocess.run([*_COMMAND, *words, "--json"], env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"powerflow {' '.join(words)}: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def submit(self, *words: str) -> str:
        """The number of a new job."""
        found = self.ask("submit", *words)
        return str(found.get("id") or found["job"]["id"])

    def job(self, number: str) -> dict[str, Any]:
        """All that is known of a job."""
        found = self.ask("describe", number)
        job: dict[str, Any] = found.get("job", found)
        return job

    def ended(self, number: str) -> dict[str, Any]:
        """A job, once it has completed.

        Raises:
            RuntimeError: It ended otherwise.
        """
        while (job := self.job(number))["state"] in ("queued", "running"):
            time.sleep(0.5)
        if job["state"] != "completed":
            raise RuntimeError(f"the job {job['state']}: {job}; it said: {self.said(number)[-800:]}")
        return job

    def said(self, number: str) -> str:
        """What a job wrote."""
        done = subprocess.run([*_COMMAND, "logs", number], env=self._env, capture_output=True, text=True, check=False)
        return done.stdout

    def log(self) -> str:
        """What the controller wrote."""
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        """End the controller."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


@contextmanager
def served(directory: Path) -> Iterator[Served]:
    """A controller while the block runs."""
    controller = Served(directory)
    try:
        yield controller
    finally:
        controller.end()
