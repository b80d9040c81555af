"""Describe a machine: its address, its network interface, and the versions of what runs there."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import socket

import psutil

from powerflow import __version__
from powerflow.errors import InputError

LOOPBACK = "127.0.0.1"


def address_towards(host: str, port: int) -> str:
    """Return this machine's address on the way to another machine. Nothing is sent.

    Raises:
        InputError: There is no way to the other machine.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise InputError(f"{host}:{port} cannot be reached ({error})", where="--controller", exit_code=5) from None


def interface_of(address: str) -> str:
    """Return the name of the network interface that has an address.

    Raises:
        InputError: No interface has this address.
    """
    for name, found in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in found):
            return name
    raise InputError(f"no network interface of this machine has the address {address}", where="--address")


def versions() -> dict[str, str]:
    """Return the versions of Python, PowerFlow and torch on this machine; without torch if it is not installed."""
    found = {"python": platform.python_version(), "powerflow": __version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["torch"] = importlib.metadata.version("torch")
    return found
