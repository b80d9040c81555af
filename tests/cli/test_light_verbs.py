"""Commands that read load nothing that takes long: docs/cli.md says what they take, `benchmarks.verbs` measures it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.shell import Shell

#: Modules that take 5 ms to 0.5 s of CPU each, and that no reading command needs. If pydantic is among those that were
#: loaded, it may be the installed typer that loads it: pyproject.toml says which versions do not.
HEAVY: tuple[str, ...] = ("numpy", "numba", "scipy", "torch", "pydantic", "httpx", "asyncio", "fastapi", "sqlalchemy")
HEAVY += ("plotly", "jinja2", "yaml", "click", "psutil", "structlog", "pygments", "markdown_it", "secrets", "zoneinfo")
HEAVY += ("importlib.metadata", "powerflow.api.job_spec", "powerflow.api.cluster_api", "powerflow.energy.signal")
HEAVY += ("textual",)
LINES = ("events", "audit", "logs 1", "queue --json", "cap show --json", "--version", "-h", "queue -h", "cap show -h")
TABLES: tuple[str, ...] = ("top", "queue --all", "describe 1", "explain 1", "explain 1 --history", "history", "acct")
TABLES += (
    "node list",
    "mode",
    "budget show",
    "budget forecast",
    "cap show",
    "share show",
    "signal show",
    "report --period 2025-11",
)

PROGRAM = """
import contextlib, io, sys
from powerflow.cli.main import main
heavy, *verbs = sys.argv[1:]
for verb in verbs:
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(verb.split())
    print(verb, code, *sorted(sys.modules.keys() & heavy.split()))
"""


@pytest.mark.parametrize(("verbs", "heavy"), [(LINES, (*HEAVY, "rich")), (TABLES, HEAVY)])
def test_a_command_that_reads_loads_nothing_heavy(
    operator: Shell, verbs: tuple[str, ...], heavy: tuple[str, ...]
) -> None:
    operator("submit", "--run", "python t.py")
    operator("cap", "set", "60kW")
    operator("budget", "set", "400kWh")
    command = [sys.executable, "-c", PROGRAM, " ".join(heavy), *verbs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{verb} 0" for verb in verbs], done.stderr
