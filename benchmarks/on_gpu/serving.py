"""A controller over the card, and its commands: ``powerflow serve --mode observe``, which sets no clock."""

from __future__ import annotations

import contextlib
import io
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

_SERVE = (
    *(sys.executable, "-m", "powerflow"),
    *("serve", "--port", "0", "--interval", "1", "--mode", "observe", "--explore-steps", "0"),
)


class Served:
    """A running controller.

    Attributes:
        up_s: Seconds from its start until it answered.
    """

    def __init__(self, directory: Path) -> None:
        self._state = directory / "state"
        os.environ |= {"POWERFLOW_STATE": str(self._state), "NO_COLOR": "1"}  # for the commands too
        os.environ.pop("POWERFLOW_URL", None)
        self._log = (directory / "serve.log").open("w+")
        began_s = time.monotonic()
        self._process = subprocess.Popen(_SERVE, stdout=self._log, stderr=self._log, cwd=ROOT)
        while not (self._state / "server.json").exists():
            if self._process.poll() is not None or time.monotonic() - began_s > 45:
                raise RuntimeError(f"serve did not begin: {self.log()[-800:]}")
            time.sleep(0.1)
        self.up_s = time.monotonic() - began_s

    def ask(self, *words: str) -> dict[str, Any]:
        """What a command says, with --json."""
        code, out, err = _command(*words, "--json")
        if code:
            raise RuntimeError(f"powerflow {' '.join(words)}: {err.strip()}")
        found: dict[str, Any] = json.loads(out)
        return found

    def submit(self, *words: str) -> str:
        """The number of a new job."""
        found = self.ask("submit", "--no-env", "--output", "none", *words)
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
        return _command("logs", number)[1]

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


def _command(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; it runs in this process, which imports what it needs only once."""
    from powerflow.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    return code, out.getvalue(), err.getvalue()


@contextmanager
def served(directory: Path) -> Iterator[Served]:
    """A controller while the block runs."""
    controller = Served(directory)
    try:
        yield controller
    finally:
        controller.end()
