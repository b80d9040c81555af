"""Rescale torchrun elastic by agents that come and go, on this machine or on the hosts of a test bed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from benchmarks.pauses import Pause, pauses, read_steps, wait

#: (number of the agent, command line, environment, log) → the agent
Start = Callable[[int, Sequence[str], Mapping[str, str], int], subprocess.Popen[bytes]]


def start_here(_: int, argv: Sequence[str], env: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
    """Start an agent on this machine."""
    return subprocess.Popen(argv, env={**os.environ, **env}, stdout=log, stderr=log, start_new_session=True)


class TorchrunAgents:
    """torchrun's agents, one rank each. The newest leaves first.

    Args:
        directory: Folder of the ranks' logs and of their checkpoint, which all agents see.
        address: Address of this machine, where the rendezvous is.
        interface: Network interface of gloo.
        start: Starts an agent.
        local_address: Returns the address of an agent, by its number.
    """

    def __init__(
        self, directory: Path, address: str, interface: str, start: Start, local_address: Callable[[int], str]
    ) -> None:
        self._directory, self._start, self._local_address = directory, start, local_address
        self._agents: list[subprocess.Popen[bytes]] = []
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        self._endpoint = f"{address}:{self._store.port}"
        self._env = {
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "GLOO_SOCKET_IFNAME": interface,
            "OMP_NUM_THREADS": "1",
        }

    def rescale(self, size: int) -> None:
        """Let agents leave or come, and wait until so many ranks train."""
        while len(self._agents) > size:
            agent = self._agents.pop()
            agent.terminate()
            agent.wait()
        seen = len(read_steps(self._directory))
        while len(self._agents) < size:
            self._begin()

        def train() -> bool:
            return [step.gang for step in read_steps(self._directory)[seen:]].count(size) > 10 * size

        try:
            wait(train, look_s=0.1)
        except TimeoutError:
            for path in self._directory.glob("agent-*.log"):
                print(path.read_text()[-3000:])
            raise

    def _begin(self) -> None:
        number = len(self._agents)
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:4", "--nproc-per-node=1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={self._endpoint}", "--rdzv-id=bench"),
            *("--rdzv-conf=last_call_timeout=1,is_host=0", "--max-restarts=100", "--monitor-interval=0.1"),
            *(f"--local-addr={self._local_address(number)}", "-m"),
            *("benchmarks.pause_ranks", "torchrun", str(self._directory)),
        ]
        with open(self._directory / f"agent-{number}.log", "ab") as log:
            self._agents.append(self._start(number, command, self._env, log.fileno()))

    def close(self) -> None:
        """End all agents."""
        for agent in self._agents:
            agent.terminate()
        for agent in self._agents:
            agent.wait()
        self._agents.clear()


def measure(agents: TorchrunAgents, directory: Path, sizes: Sequence[int]) -> list[Pause]:
    """Return the pauses while the number of ranks takes these values, one after the other."""
    try:
        for size in sizes:
            agents.rescale(size)
        return pauses(read_steps(directory))
    finally:
        agents.close()
