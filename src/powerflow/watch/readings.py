"""Define what a source of readings returns: what each GPU of a site drew since the last time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from powerflow.watch.owners import GpuAddress, OwnersLook
from powerflow.watch.series import GpuSeries


@dataclass(frozen=True, slots=True)
class Card:
    """What a GPU is.

    Attributes:
        uuid: The driver's name of it; "" if it is not known.
        vendor_name: Name of its model, as the driver gives it: ``NVIDIA A100-SXM4-80GB``; "" if it is not known.
        limit_w: Power limit, watts; nan if it is not known.
        emulated: True if it is no real GPU.
    """

    uuid: str = ""
    vendor_name: str = ""
    limit_w: float = float("nan")
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class Readings:
    """What a source says of a time span.

    Attributes:
        series: The readings of each GPU in this span.
        cards: What these GPUs are.
        lag_s: How old a reading may be at its time, seconds; 0 if the source reads GPUs itself.
        owners: Who holds the GPUs, where the readings themselves say it (labels of an exporter); None if they do not.
        notes: What could not be read, for the user.
    """

    series: Mapping[GpuAddress, GpuSeries]
    cards: Mapping[GpuAddress, Card]
    lag_s: float = 0.0
    owners: OwnersLook | None = None
    notes: Sequence[str] = field(default=())


class ReadingSource(Protocol):
    """A place where the readings of GPUs can be had."""

    @property
    def name(self) -> str:
        """What it is, for the user: ``Prometheus at http://…``, ``the NVIDIA GPUs of this machine``."""

    def read(self, since_s: float, until_s: float) -> Readings:
        """Return the readings after one moment up to another (Unix seconds).

        A source that has no history takes one reading now.

        Raises:
            InputError: The source cannot be reached, or does not have what is needed.
        """


class OwnerSource(Protocol):
    """A place that says which job holds which GPU."""

    @property
    def name(self) -> str:
        """What it is, for the user: ``Slurm``."""

    def look(self, now_s: float) -> OwnersLook:
        """Return who holds GPUs now (Unix seconds), and who gave some back a short while ago.

        Raises:
            InputError: The source cannot be reached.
        """
