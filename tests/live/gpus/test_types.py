"""A real controller over the fake NVML: cards of several types, cards that cannot be used, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from powerflow.cli.main import main
from tests.cli.serving import SERVE, with_tables
from tests.device.fake_nvml import Machine


class Serving:
    """``powerflow serve`` on a fake machine, and its commands."""

    def __init__(self, machine: Machine, state: Path) -> None:
        self.state = state
        self.log = state.parent / "serve.log"
        with self.log.open("w") as log:
            command = [*SERVE, "--state-dir", str(with_tables(state)), "--port", "0", "--interval", "1"]
            self.process = subprocess.Popen(command, env=machine.env, stdout=log, stderr=subprocess.STDOUT)
        while self.process.poll() is None and not (state / "server.json").exists():
            time.sleep(0.05)

    def ask(self, *words: str) -> str:
        """What a command says to the controller's process; the command itself runs in this one."""
        with redirect_stdout(StringIO()) as said, redirect_stderr(said):
            main([*words, "--state-dir", str(self.state)])
        return said.getvalue()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def named(machine: Machine, *names: str) -> None:
    machine.all.count = len(names)
    for index, name in enumerate(names):
        gpu = machine.gpu[index]
        gpu.uuid, gpu.name = f"GPU-{index:08d}-fake".encode(), name.encode()
        gpu.power_w, gpu.clock_mhz = 60.0, 1410.0


def test_types_are_nodes_of_their_own_and_what_cannot_be_used_is_named(nvml_machine: Machine, tmp_path: Path) -> None:
    named(nvml_machine, "NVIDIA A100-SXM4-80GB", "NVIDIA L4", "NVIDIA A100-SXM4-80GB", "NVIDIA H200", "NVIDIA A40")
    nvml_machine.more[1].default_limit_mw = 72_000
    nvml_machine.gpu[2].mig = 1
    nvml_machine.gpu[4].every_error = 15
    serving = Serving(nvml_machine, tmp_path / "state")
    try:
        nodes = json.loads(serving.ask("node", "list", "--json"))["nodes"]
        kinds = {node["name"].split("-", 1)[1]: (node["gpu_type"], len(node["gpus"])) for node in nodes}
        assert kinds == {"A100": ("A100", 1), "H200": ("NVIDIA H200", 1), "L4": ("NVIDIA L4", 1)}
        shown, top, log = serving.ask("node", "list"), serving.ask("top"), serving.log.read_text()
        for words in (shown, top, log):
            assert "GPU 2 of" in words
            assert "split by MIG" in words
            assert "GPU is lost (nvmlDeviceGetHandleByIndex)" in words
        assert "NVIDIA L4 is not in the catalogue: 210 to 1410 MHz, 72 W" in log
        asked = 'test -n "$CUDA_VISIBLE_DEVICES" && echo on $CUDA_VISIBLE_DEVICES'
        assert "there is no B200 in this cluster" in serving.ask("submit", "--run", "true", "--gpus", "B200:1")
        assert "asks for 2 GPUs, but the cluster has 1" in serving.ask("submit", "--run", "true", "--gpus", "2")
        serving.ask("submit", "-o", "none", "--run", asked, "--gpus", "L4:1")
        ends_s = time.monotonic() + 60
        while "on GPU" not in (said := serving.ask("logs", "1")) and time.monotonic() < ends_s:
            time.sleep(0.2)
        assert said.strip() == "on GPU-00000001-fake"
    finally:
        serving.end()


def test_no_usable_gpu_is_one_line_with_every_reason(nvml_machine: Machine, tmp_path: Path) -> None:
    named(nvml_machine, "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")
    nvml_machine.gpu[0].mig, nvml_machine.more[1].compute_mode = 1, 2
    serving = Serving(nvml_machine, tmp_path / "state")
    assert serving.process.wait() == 1
    said = serving.log.read_text()
    assert "no NVIDIA GPU of this machine can be used (GPU 0 of" in said
    assert "split by MIG" in said
    assert "prohibited" in said
    assert "Traceback" not in said
    *phases, error = said.splitlines()
    assert all(line.startswith(("powerflow: opens the store", "powerflow: starts the agent")) for line in phases)
    assert error.startswith("powerflow: no NVIDIA GPU of this machine can be used")
