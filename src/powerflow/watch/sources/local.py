"""Read the NVIDIA GPUs of this machine, through the driver. No special rights are needed, and nothing is changed."""

from __future__ import annotations

import socket
import time

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.device.nvml import discover
from powerflow.device.protocol import DeviceError, Reading
from powerflow.errors import InputError
from powerflow.osutil.host_names import short_host
from powerflow.watch.owners import GpuAddress
from powerflow.watch.readings import Card, Readings
from powerflow.watch.series import series_of


class LocalGpus:
    """The NVIDIA GPUs of this machine, as a source of readings.

    Attributes:
        pids: Processes that compute on each GPU, by the last reading; None if the driver does not tell.

    Raises:
        InputError: There is no GPU that can be read; the message has the driver's words.
    """

    name = "the NVIDIA GPUs of this machine"

    def __init__(self) -> None:
        said: list[str] = []
        self._gpus = discover(short_host(socket.gethostname()), said.append)
        self._notes = said
        if not self._gpus:
            why = said[0] if said else "the driver has no GPU"
            raise InputError(
                f"no GPU can be read ({why})",
                where="this machine",
                fix="name a Prometheus: --prometheus URL",
                exit_code=1,
            )
        self.pids: dict[GpuAddress, tuple[int, ...] | None] = {}

    def read(self, since_s: float, until_s: float) -> Readings:  # a driver has no history
        """Read each GPU once, now; a GPU that does not answer is left out, with a note."""
        for gpu in self._gpus:
            gpu.begin_reading()
        series, cards, notes = {}, {}, list(self._notes)
        for gpu in self._gpus:
            address = GpuAddress(gpu.node, gpu.minor)
            cards[address] = Card(gpu.uuid, gpu.vendor_name)
            try:
                reading = gpu.read()
            except DeviceError as error:
                notes.append(str(error))
                self.pids.pop(address, None)
                continue
            self.pids[address] = reading.pids
            cards[address] = Card(gpu.uuid, gpu.vendor_name, reading.power_limit_w)
            series[address] = series_of(**_columns(reading))
        return Readings(series, cards, notes=notes)


def _columns(reading: Reading) -> dict[str, FloatArray]:
    """Return a reading as the columns of a series; its moment in Unix seconds, as it is now on this machine's clock."""
    values = {
        "time_s": time.time() - (time.monotonic() - reading.time_s),
        "energy_j": reading.energy_j,
        "power_w": reading.power_w,
        "clock_mhz": reading.clock_mhz,
        "utilisation": reading.utilisation,
    }
    return {name: np.array([value]) for name, value in values.items()}
