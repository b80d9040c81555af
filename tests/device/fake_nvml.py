"""Builds the fake NVML, and maps the file in which its GPUs stand."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_nvml.c")


class FakeGpu(ctypes.Structure):
    """As in fake_nvml.c."""

    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("power_w", ctypes.c_double),
        ("energy_mj", ctypes.c_double),
        ("energy_at_s", ctypes.c_double),
        ("counter_mod_mj", ctypes.c_double),
        ("clock_mhz", ctypes.c_double),
        ("clock_cap_mhz", ctypes.c_double),
        ("locked_mhz", ctypes.c_uint32),
        ("sets", ctypes.c_uint32),
        ("utilisation", ctypes.c_uint32),
        ("mig", ctypes.c_uint32),
        ("every_error", ctypes.c_int32),
        ("set_error", ctypes.c_int32),
        ("energy_error", ctypes.c_int32),
        ("power_error", ctypes.c_int32),
    ]


class FakeMore(ctypes.Structure):
    """As in fake_nvml.c: ``More``."""

    _fields_ = [
        ("pids", ctypes.c_uint32 * 4),
        ("hangs", ctypes.c_uint32),
        ("set_late_ms", ctypes.c_uint32),
        ("power_limit_mw", ctypes.c_uint32),
        ("pci_bus", ctypes.c_uint32),
        ("throttled_by", ctypes.c_uint64),
        ("ecc_errors", ctypes.c_uint64),
        ("xid", ctypes.c_uint64),
        ("xids", ctypes.c_uint32),
        ("late_mhz", ctypes.c_uint32),
        ("late_s", ctypes.c_double),
        ("default_limit_mw", ctypes.c_uint32),
        ("memory_mib", ctypes.c_uint32),
        ("clock_max_mhz", ctypes.c_uint32),
        ("compute_mode", ctypes.c_uint32),
        ("gpm", ctypes.c_uint32),
        ("gpm_error", ctypes.c_int32),
        ("metrics_error", ctypes.c_int32),
        ("metric_error", ctypes.c_int32 * 3),
        ("gpm_asked", ctypes.c_uint32),
        ("gpm_samples", ctypes.c_int32),
        ("percent", ctypes.c_double * 3),
        ("counted", ctypes.c_double * 3),
        ("counted_at_s", ctypes.c_double),
    ]


#: What does not return, in ``FakeMore.hangs``.
HANG_READING, HANG_SETTING, HANG_OPENING = 1, 2, 4


class FakeMachine(ctypes.Structure):
    """As in fake_nvml.c."""

    _fields_ = [
        ("count", ctypes.c_uint32),
        ("init_error", ctypes.c_int32),
        ("gpu", FakeGpu * 8),
        ("more", FakeMore * 8),
    ]


def build(directory: Path) -> Path:
    """Compile the library; returns the folder to put on LD_LIBRARY_PATH. Skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler to build the fake libnvidia-ml.so.1 with")
    library = directory / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return directory


_OPENED = "import sys, json, math, time\nfrom powerflow.device.nvml import discover, find\n"
_LOOKED = "said = []\ngpus = discover('n0', said.append)\n"

_SERVANT = """
import contextlib, io, json, sys, traceback
for line in sys.stdin:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(json.loads(line), {})
        print(json.dumps(["", out.getvalue()]), flush=True)
    except BaseException:
        print(json.dumps([traceback.format_exc(), out.getvalue()]), flush=True)
"""


class Machine:
    """A machine with fake NVIDIA GPUs; ``gpu[i]`` are seen by every process that it starts."""

    def __init__(self, library: Path, directory: Path) -> None:
        self.library = library
        self.path = directory / "gpus"
        self.path.write_bytes(bytes(ctypes.sizeof(FakeMachine)))
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.all = FakeMachine.from_buffer(self._memory)
        self.gpu = self.all.gpu
        self.more = self.all.more
        self._servant: subprocess.Popen[str] | None = None
        self.reset()

    def reset(self) -> None:
        """Two idle GPUs, whatever was before."""
        ctypes.memset(ctypes.byref(self.all), 0, ctypes.sizeof(FakeMachine))
        self.all.count = 2
        for index in range(2):
            gpu = self.gpu[index]
            gpu.uuid = f"GPU-{index:08d}-fake".encode()
            gpu.name = b"NVIDIA A100-SXM4-80GB"
            gpu.power_w = 60.0
            gpu.clock_mhz = 1410.0

    @property
    def env(self) -> dict[str, str]:
        """Environment in which the fake is the machine's NVML."""
        return os.environ | {"LD_LIBRARY_PATH": str(self.library), "FAKE_NVML_STATE": str(self.path)}

    def run(self, code: str) -> str:
        """What this code prints in a living process of the machine, which finds these GPUs anew as ``gpus``."""
        if self._servant is None:
            self._servant = subprocess.Popen(
                [sys.executable, "-c", _SERVANT], env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self._servant.stdin is not None
        assert self._servant.stdout is not None
        self._servant.stdin.write(json.dumps(_OPENED + _LOOKED + code) + "\n")
        self._servant.stdin.flush()
        failed, out = json.loads(self._servant.stdout.readline())
        assert not failed, failed
        return str(out).strip()

    def run_and_end(self, code: str, *arguments: str) -> str:
        """The same in a process of its own, which ends with it."""
        command = [sys.executable, "-c", _OPENED + _LOOKED + code, *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        """End the living process."""
        if self._servant is not None:
            self._servant.communicate()


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the fake library; tests that need it are skipped without nvidia-ml-py."""
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml_machine(nvml_library: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine with two idle GPUs."""
    machine = Machine(nvml_library, tmp_path)
    yield machine
    machine.close()
