# ruff: noqa: D102 (a test's name says what it holds)
"""Test users, environments and secrets on several nodes whose ranks are POSIX processes.

`powerflow.testing.engine_conformance_nodes.MultiNodeConformance` has these tests; they are skipped for other engines.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from powerflow.engine.protocol import Engine, EngineError, RankName, RankSpec
from powerflow.testing.bed import Bed, gang, rank, started
from powerflow.testing.engine_conformance import ended, whole_log


class NodeProcesses:
    """Tests for engines whose ranks are processes on several nodes."""

    def test_secrets_are_in_no_command_line(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        bed.need("processes")
        secret = f"secret-{os.urandom(8).hex()}"
        text = "cat /proc/[0-9]*/cmdline 2>&1 | tr '\\0' ' '; true"
        for i, name in enumerate(names):
            holder = rank(name, "sleep", "600", number=2 * i, env={"TOKEN": secret})
            look = rank(name, "sh", "-c", text, number=2 * i + 1)
            started(engine, [holder])
            engine.launch(look)
            ended(engine, look.name)
            seen = whole_log(engine, look.name)
            assert b"sleep 600" in seen  # it did look
            assert secret.encode() not in seen
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            assert secret.encode() not in words

    def test_each_node_gives_the_environment_that_was_asked(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        bed.need("processes")
        for i, name in enumerate(names):
            spec = RankSpec(RankName(gang(), 0, i), name, ("env",), {"PATH": os.environ["PATH"], "A": name}, "/")
            engine.launch(spec)
            ended(engine, spec.name)
            words = {f"PATH={os.environ['PATH']}".encode(), f"A={name}".encode()}
            assert set(whole_log(engine, spec.name).splitlines()) == words

    def test_each_node_runs_ranks_as_another_user(self, bed: Bed, engine: Engine, names: list[str]) -> None:
        bed.need("processes", "user")
        for i, name in enumerate(names):
            spec = rank(name, "id", "-un", number=i, user=bed.user)
            assert engine.check(spec) == ""
            engine.launch(spec)
            assert ended(engine, spec.name).code == 0
            assert whole_log(engine, spec.name) == f"{bed.user}\n".encode()
            stranger = rank(name, "true", number=1000 + i, user="no-such-user-7f3a")
            assert "no-such-user-7f3a" in engine.check(stranger)
            with pytest.raises(EngineError):
                engine.launch(stranger)
