"""How an actor of Ray starts the agent of its node."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from powerflow.engine.ray.relay import Relay

#: Stands for the agent: writes its arguments and what it knows of Ray to a file beside its token.
_AGENT = """
import json, os, pathlib, sys
words = sys.argv[1:]
token = pathlib.Path(words[words.index("--token-file") + 1])
known = [name for name in os.environ if name.startswith(("RAY_", "CUDA_"))]
said = {"words": words, "token": token.read_text(), "known": known, "parent": os.getppid()}
(token.parent / "said.tmp").write_text(json.dumps(said))
os.replace(token.parent / "said.tmp", token.parent / "said")
"""


def _said(folder: Path, *words: str) -> dict[str, object]:
    Relay(str(folder), ("-c", _AGENT, *words), "join token")._start()
    deadline_s = time.monotonic() + 60.0
    while not (folder / "said").exists():
        assert time.monotonic() < deadline_s, (folder / "agent.log").read_text()
        time.sleep(0.01)
    found: dict[str, object] = json.loads((folder / "said").read_text())
    return found


@pytest.mark.parametrize(
    ("held", "words", "expected"),
    [
        ("0,2", ["agent"], ["--gpus", "0,2"]),
        ("", ["agent"], []),
        ("0,2", ["agent", "--emulate", "1x2:A100"], []),
    ],
)
def test_the_agent_gets_the_gpus_that_ray_has(
    held: str, words: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", held)
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    folder = tmp_path / "agent"
    said = _said(folder, *words)
    own = ["--state-dir", str(folder), "--token-file", str(folder / "join-token")]
    assert said == {"words": [*words, *own, *expected], "token": "join token", "known": [], "parent": said["parent"]}
    assert (folder / "join-token").stat().st_mode & 0o777 == 0o600
