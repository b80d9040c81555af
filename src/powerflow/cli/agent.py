"""``powerflow agent``: run the agent of this machine, which obeys the controller of a cluster."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from powerflow.device.protocol import Gpu

#: Default folder of the agent's files.
STATE = Path("/var/lib/powerflow-agent")


def agent(
    token_file: Annotated[
        Path, typer.Option(help="Join token: a copy of the file join-token in the controller's state directory.")
    ],
    controller: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of the controller for agents (powerflow serve --agents); repeat it for a standby controller. "
            "Default: listen on the socket agent.sock in the state directory, for Ray on this machine.",
        ),
    ] = None,
    state_dir: Annotated[
        Path, typer.Option(help="Folder for all files of the agent, on a disk of this machine.")
    ] = STATE,
    name: Annotated[str, typer.Option(help="Name of this machine. Default: its host name.")] = "",
    address: Annotated[
        str,
        typer.Option(
            help="Address at which ranks on other machines reach this one. Default: that towards the controller."
        ),
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="What the site says about this machine, such as rack=r1; may be repeated."
        ),
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="NUMBER|UUID,…",
            help="GPUs to use, if not all: their numbers as nvidia-smi shows them, or their UUIDs.",
        ),
    ] = "",
    emulate: Annotated[
        str | None, typer.Option(help="Emulated GPUs, such as 1x8:A100. Default: the real GPUs of this machine.")
    ] = None,
) -> None:
    """Run the agent of this machine, until SIGTERM or Ctrl-C.

    The agent starts and ends the ranks of jobs, reads the GPUs and sets their clocks, as the controller orders. When
    the agent ends or is killed, its jobs run on, and the next agent finds them. It obeys only the controller whose join
    token it has.
    """
    from powerflow.agent.preload import preloaded
    from powerflow.agent.process import AgentSettings, run_agent
    from powerflow.engine.cluster.sealed import JoinToken
    from powerflow.engine.local.process import hide_memory
    from powerflow.errors import InputError

    hide_memory()
    os.umask(0o022)
    machine = name or platform.node()
    try:
        text = token_file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot be read ({why})", where=f"--token-file {token_file}") from None
    run_agent(
        AgentSettings(
            directory=state_dir.absolute(),
            token=JoinToken.parse(text, str(token_file)),
            controllers=[host_and_port(each) for each in controller or ()],
            gpus=_gpus(machine, state_dir.absolute(), emulate, gpus),
            machine=machine,
            address=address,
            labels=_labels(label or ()),
            preload=preloaded(),
        )
    )


def host_and_port(text: str, where: str = "--controller") -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        InputError: The text is not of this form.
    """
    from powerflow.errors import InputError

    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{text!r} is not of the form HOST:PORT", where=where, fix="give controller.example:7734")
    return host, int(port)


def _labels(words: list[str] | tuple[str, ...]) -> dict[str, str]:
    from powerflow.errors import InputError

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InputError(f"{word!r} is not of the form KEY=VALUE", where="--label", fix="give rack=r1")
        found[key] = value
    return found


def _gpus(machine: str, directory: Path, emulate: str | None, names: str) -> Sequence[Gpu]:
    from dataclasses import replace

    from powerflow.agent.gpus import find_gpus
    from powerflow.cluster.spec import parse_cluster
    from powerflow.device.emulated.gpu import create
    from powerflow.errors import InputError

    def leave_out(words: str) -> None:
        print(f"powerflow agent: left out: {words}", flush=True)

    if emulate is not None and names:
        raise InputError("is for the GPUs of the driver, not for --emulate", where="--gpus", fix="give one of the two")
    if emulate is None:
        directory.mkdir(parents=True, exist_ok=True)
        return find_gpus(directory / "devices", directory, machine, None, leave_out, names)
    nodes = parse_cluster(emulate, "--emulate").nodes
    named = [replace(node, name=machine if len(nodes) == 1 else f"{machine}-{node.name}") for node in nodes]
    return create(directory / "devices" / "emulated", named)
