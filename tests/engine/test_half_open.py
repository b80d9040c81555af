"""A connection whose other side is gone without a goodbye ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from powerflow.testing.hosts import Hosts, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "")

#: Waits for requests, as an agent does, and says when the connection has ended.
AGENT = """
import asyncio, sys
from powerflow.engine.cluster.frames import answer_frames

async def main():
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    print("connected", flush=True)
    async def answer(payload):
        return payload
    await answer_frames(reader, writer, answer)
    print("ended", flush=True)

asyncio.run(main())
"""
#: Accepts a connection, and never asks anything.
CONTROLLER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
one, _ = server.accept()
print("accepted", flush=True)
time.sleep(3600)
"""


def test_an_agent_that_waits_notices_that_the_host_of_its_controller_has_crashed(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as hosts:
        python = [sys.executable, "-c"]
        controller = hosts.run(2, [*python, CONTROLLER, hosts.address(2)], stdout=subprocess.PIPE, text=True)
        assert controller.stdout is not None
        port = controller.stdout.readline().strip()
        agent = hosts.run(1, [*python, AGENT, hosts.address(2), port], stdout=subprocess.PIPE, text=True)
        assert agent.stdout is not None
        assert agent.stdout.readline() == "connected\n"
        assert controller.stdout.readline() == "accepted\n"
        hosts.crash(2)  # without a goodbye
        hosts.boot(2)
        began_s = time.monotonic()
        assert agent.wait(60.0) == 0
        assert agent.stdout.read() == "ended\n"
        assert time.monotonic() - began_s < 30.0
