"""Run the agent of the controller's own machine as a daemon: ``python -m powerflow.agent.own STATE``.

The controller starts it (`powerflow.live.fabric`). Its ranks, GPUs and files are those of the state directory. It says
with one line of JSON on stdout whether it can be reached, and then goes on in the background, until the controller ends
it. A killed agent is started again by the controller; its ranks run on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from powerflow.agent.gpus import find_gpus
from powerflow.agent.preload import preloaded
from powerflow.agent.process import AgentSettings, run_agent
from powerflow.engine.cluster.sealed import JoinToken
from powerflow.engine.local.process import hide_memory
from powerflow.engine.protocol import EngineError
from powerflow.errors import InputError

#: Folder of the agent's own files, in the state directory.
FOLDER = "agent"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Start the daemon, and end this process when it can be reached, or cannot be started."""
    parser = argparse.ArgumentParser(prog="python -m powerflow.agent.own", description="Agent of a controller.")
    parser.add_argument("state", type=Path, metavar="STATE", help="state directory of the controller")
    parser.add_argument("--token-file", type=Path, required=True, help="join token of the controller")
    parser.add_argument("--emulate", help="emulated GPUs; default: the real ones")
    parser.add_argument("--owner", default="", help="owner of the ranks")
    given = parser.parse_args(arguments)
    said, say = os.pipe()
    if os.fork():
        os.close(say)
        with os.fdopen(said) as answer:
            line = answer.readline()
        print(line or json.dumps({"error": "it ended before it could be reached", "exit_code": 1}), flush=True)
        os._exit(0)
    os.close(said)
    os.setsid()
    _log_to(given.state / FOLDER)
    hide_memory()

    def tell(**words: object) -> None:
        os.write(say, (json.dumps(words) + "\n").encode())
        os.close(say)

    try:
        _run(given, lambda: tell(ready=True))
    except (InputError, EngineError, OSError) as error:
        tell(error=str(error), exit_code=error.exit_code if isinstance(error, InputError) else 1)
    sys.exit(0)


def _run(given: argparse.Namespace, ready: Callable[[], None]) -> None:
    state, left_out = given.state, list[str]()
    gpus = find_gpus(state / "device", state, platform.node(), given.emulate, left_out.append)
    run_agent(
        AgentSettings(
            directory=state / FOLDER,
            token=JoinToken.parse(given.token_file.read_text("ascii"), str(given.token_file)),
            controllers=(),
            gpus=gpus,
            preload=preloaded(),
            devices=state / "device",
            ranks=state / "engine",
            owner=given.owner,
            left_out=left_out,
            ready=ready,
        )
    )


def _log_to(directory: Path) -> None:
    """Send what this process prints to a file."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    log = os.open(directory / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)


if __name__ == "__main__":
    main()
