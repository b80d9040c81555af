"""Open the sources that ``powerflow watch`` reads: what GPUs draw, and who holds them."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from powerflow.cli.settings import default_state
from powerflow.errors import InputError

if TYPE_CHECKING:
    from powerflow.cli.cluster.client import ControllerClient
    from powerflow.watch.owners import OwnersLook
    from powerflow.watch.readings import OwnerSource, Readings, ReadingSource
    from powerflow.watch.sources.kubernetes import PodNames


class Owners(StrEnum):
    """Who says which job holds which GPU."""

    AUTO = "auto"
    SLURM = "slurm"
    LABELS = "labels"
    PROCESSES = "processes"
    CONTROLLER = "controller"
    KUBERNETES = "kubernetes"


@dataclass(slots=True)
class Sources:
    """What is watched.

    Attributes:
        readings: Says what each GPU draws.
        owners: Says which job holds which GPU; None: the labels of the readings do, if they have any.
        pods: Says whose the pods are that hold GPUs; None: nobody is asked.
    """

    readings: ReadingSource
    owners: OwnerSource | None
    pods: PodNames | None = None

    def described(self) -> str:
        """Say in one line what is watched."""
        by = "labels of the exporter" if self.owners is None else self.owners.name
        names = "" if self.pods is None else f", and {self.pods.name}"
        return f"readings: {self.readings.name}; who holds them: {by}{names}"

    def look(self, since_s: float) -> tuple[Readings | None, OwnersLook | None, list[str]]:
        """Read what is new after a moment (Unix seconds).

        Returns:
            The readings and the owners, each None if its source did not answer; and notes for the user.
        """
        notes: list[str] = []
        readings = owners = None
        try:
            readings = self.readings.read(since_s, time.time())
            notes += readings.notes
        except InputError as error:
            notes.append(str(error))
        if self.owners is None:
            owners = readings.owners if readings is not None else None
        else:
            try:
                owners = self.owners.look(time.time())
            except InputError as error:
                notes.append(f"{error}; who holds GPUs is not known meanwhile (--owners names another source)")
        if owners is not None and self.pods is not None:
            owners = self.pods.named(owners)
        return readings, owners, notes + list(owners.notes if owners is not None else ())


TokenFile = Annotated[
    Path | None, typer.Option("--prometheus-token-file", help="File with the bearer token for Prometheus.")
]
BasicFile = Annotated[
    Path | None, typer.Option("--prometheus-basic-file", help="File with user:password for Prometheus.")
]
CaFile = Annotated[Path | None, typer.Option("--prometheus-ca", help="Certificates to trust for Prometheus, PEM.")]
NodeLabel = Annotated[
    str, typer.Option("--node-label", help="Label of the metrics that names the node; found by default.")
]


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """How to reach a Prometheus.

    Attributes:
        url: Its address; None if none is named.
        token_file, basic_file, ca_file: Files with a bearer token, with ``user:password``, and with the certificates of
            trusted authorities.
        node_label: Label of its metrics that names the node; "" to look for it.
    """

    url: str | None
    token_file: Path | None = None
    basic_file: Path | None = None
    ca_file: Path | None = None
    node_label: str = ""


def open_sources(prometheus: PrometheusAccess, owners: Owners, controller: ControllerClient | None = None) -> Sources:
    """Open what the options name, or what this machine has.

    Args:
        prometheus: How to reach a Prometheus, if one is named.
        owners: Who says which job holds which GPU.
        controller: The controller whose machines are read; None if none is named.

    Raises:
        InputError: There is nothing to read, or the owners that were named cannot be had here.
    """
    from powerflow.watch.sources.slurm import Slurm

    slurm = shutil.which("squeue") is not None
    if owners is Owners.SLURM and not slurm:
        raise InputError("there is no squeue here", where="--owners", fix="run this where users submit jobs")
    if controller is not None:
        return _of_controller(controller, owners, slurm=slurm, several=prometheus.url is not None)
    if owners is Owners.CONTROLLER:
        raise InputError("no controller is named", where="--owners", fix="name one: --controller URL")
    pods = _pods() if owners is Owners.KUBERNETES else None
    if prometheus.url is not None:
        from powerflow.watch.sources.prometheus import Prometheus

        if owners is Owners.PROCESSES:
            raise InputError(
                "processes can be seen on this machine only",
                where="--owners",
                fix="leave out --prometheus, or use slurm",
            )
        readings = Prometheus(
            prometheus.url,
            token_file=prometheus.token_file,
            basic_file=prometheus.basic_file,
            ca_file=prometheus.ca_file,
            node_label=prometheus.node_label,
        )
        return Sources(readings, Slurm() if slurm and owners in (Owners.AUTO, Owners.SLURM) else None, pods)
    from powerflow.watch.sources.local import LocalGpus
    from powerflow.watch.sources.processes import ProcessOwners

    if owners is Owners.LABELS:
        raise InputError("the driver has no labels", where="--owners", fix="name a Prometheus: --prometheus URL")
    gpus = LocalGpus()
    # a Slurm that does not answer now may do so later: processes would then be taken for its jobs
    return Sources(gpus, Slurm() if slurm and owners in (Owners.AUTO, Owners.SLURM) else ProcessOwners(gpus), pods)


def _pods() -> PodNames:
    from powerflow.watch.sources.kubernetes import PodNames
    from powerflow.watch.sources.kubernetes_access import find_api

    return PodNames(find_api(os.environ))


def _of_controller(client: ControllerClient, owners: Owners, *, slurm: bool, several: bool) -> Sources:
    from powerflow.cli.site.controller_gpus import ControllerGpus, ControllerJobs
    from powerflow.watch.sources.slurm import Slurm

    if several:
        raise InputError("two sources of readings are named", where="--controller and --prometheus", fix="name one")
    if owners in (Owners.LABELS, Owners.PROCESSES, Owners.KUBERNETES):
        raise InputError(
            f"a controller tells no {owners.value}", where="--owners", fix="use controller (its own jobs), or slurm"
        )
    gpus = ControllerGpus(client)
    return Sources(gpus, Slurm() if slurm and owners in (Owners.AUTO, Owners.SLURM) else ControllerJobs(gpus))


def default_file() -> Path:
    """Return the file in which the watch is kept by default."""
    return default_state() / "watch.db"
