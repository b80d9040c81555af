"""A command line against a real server over a fake cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from powerflow.api.records import Caller, Role
from powerflow.cli.main import main
from tests.service.fake_cluster import FakeCluster

#: Who asks by `shell`.
ADA = Caller("ada", Role.USER)


@dataclass
class Shell:
    """Runs command lines as a person would."""

    cluster: FakeCluster
    url: str
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *argv: str, code: int = 0, notes: Sequence[str] = ()) -> str:
        got = main(argv)
        out, err = self.capsys.readouterr()
        assert got == code, err or out
        if code == 0:
            assert err.splitlines() == [f"powerflow: note: {note}" for note in notes]
        else:
            assert all(line.startswith("powerflow: ") for line in err.splitlines())
            assert "bug in PowerFlow" not in err
        return str(err if code else out)

    def json(self, *argv: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self(*argv, "--json"))
        assert document["version"] == 1
        return document
