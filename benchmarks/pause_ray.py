"""Rescale Ray Train by its own elasticity, on the hosts of a test bed.

Ray Train takes all of a cluster that it may: it grows when it sees a new Ray node with room, and begins anew with fewer
ranks when a node is gone. It has no public way to be told a number of ranks. So nodes come and go here, one rank each.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pauses import Pause, pauses, read_steps, wait
from powerflow.testing.hosts import INTERFACE, Hosts

_RAY = str(Path(sys.executable).with_name("ray"))
_PORT = 6379
#: Bytes of each node's object store, which this benchmark does not use.
_STORE = ["--object-store-memory", "80000000"]


class RayCluster:
    """A Ray node for each rank, on the first hosts of a bed; the first has the head, and the driver of the training.

    Args:
        hosts: The bed.
        directory: Folder that all hosts share, for logs, results and checkpoints.
        most: Most ranks.
    """

    def __init__(self, hosts: Hosts, directory: Path, most: int) -> None:
        self._hosts, self._directory, self._most = hosts, directory, most
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._driver: subprocess.Popen[bytes] | None = None
        self._home = Path(tempfile.mkdtemp(prefix="pfpause-"))  # Ray's sockets need a short path
        (self._home / "token").write_text(secrets.token_hex(32))
        (self._home / "token").chmod(0o600)

    def rescale(self, size: int) -> None:
        """Let nodes leave or come, and wait until so many ranks train."""
        while len(self._nodes) > size:
            node = self._nodes.pop()
            node.send_signal(signal.SIGTERM)
            node.wait()
        seen = len(read_steps(self._directory))
        while len(self._nodes) < size:
            self._begin(len(self._nodes) + 1)
        if self._driver is None:
            words = [sys.executable, "-m", "benchmarks.pause_ray", str(self._directory), str(self._most)]
            self._driver = self._run(1, words, "driver")

        def train() -> bool:
            assert self._driver is not None
            if self._driver.poll() is not None:
                raise TimeoutError(f"Ray's driver has ended with {self._driver.returncode}")
            return [step.gang for step in read_steps(self._directory)[seen:]].count(size) > 5 * size

        try:
            wait(train, 400.0, look_s=0.2)
        except TimeoutError:
            print((self._directory / "driver.log").read_text()[-5000:])
            raise

    def _begin(self, i: int) -> None:
        address = self._hosts.address(i)
        words = [_RAY, "start", "--block", "--node-ip-address", address, "--num-cpus", "1", "--num-gpus", "0"]
        if i == 1:
            words += ["--head", "--port", str(_PORT), "--include-dashboard", "false"]
        else:
            words += ["--address", f"{self._hosts.address(1)}:{_PORT}"]
        self._nodes.append(self._run(i, [*words, *_STORE, "--temp-dir", f"{self._home}/{i}"], f"node-{i}"))

    def _run(self, i: int, words: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._home / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": f"{self._hosts.address(1)}:{_PORT}",
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.getcwd(),
        }
        with open(self._directory / f"{log}.log", "ab") as file:
            out = file.fileno()
            return self._hosts.run(i, words, env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=os.getcwd())

    def close(self) -> None:
        """End the driver and all nodes."""
        for process in [self._driver, *reversed(self._nodes)]:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._nodes.clear()
        shutil.rmtree(self._home, ignore_errors=True)


def measure(hosts: Hosts, directory: Path, sizes: Sequence[int]) -> list[Pause]:
    """Return the pauses while the number of ranks takes these values, one after the other."""
    cluster = RayCluster(hosts, directory, max(sizes))
    try:
        for size in sizes:
            cluster.rescale(size)
        return pauses(read_steps(directory))
    finally:
        cluster.close()


def drive(directory: str, most: int) -> None:
    """Train, for ever, on 1 to ``most`` ranks."""
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from benchmarks.pause_ranks import train_ray

    ray.init()
    scaling: dict[str, Any] = {  # of types that Ray's own annotations do not know
        "num_workers": (1, most),
        "resources_per_worker": {"CPU": 1},
        "elastic_resize_monitor_interval_s": 1.0,
    }
    TorchTrainer(
        train_ray,
        train_loop_config={"directory": directory},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name="bench",
            storage_path=f"{directory}/ray",
            failure_config=FailureConfig(max_failures=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


if __name__ == "__main__":
    drive(sys.argv[1], int(sys.argv[2]))
