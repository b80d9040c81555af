"""Build the environment of the agent, which every rank can read.

A rank that runs in the preloaded interpreter is a fork of the agent: ``/proc/self/environ`` and its memory are the
agent's, and ``/proc/PPID/environ`` of any rank that runs as the agent's own user is, too. So the agent is not given the
environment of whoever starts it, which may hold a database's password or a cloud's keys. It gets a new one: fixed
values, and the few variables of `PASSED`, which say where libraries are.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

#: Passed on where they are set: without them the interpreter, its modules or the GPU's driver are not found.
PASSED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "TZ",
    "TMPDIR",
)
#: Search path of agents and ranks; they do not inherit that of the controller.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def agent_environment(ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Build the environment of an agent.

    Args:
        ours: Environment of the process that starts it.
    """
    built = {"PATH": PATH, "LANG": "C.UTF-8"}
    try:
        built["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a user without an entry, as in containers
        built["HOME"] = "/"
    return built | {name: ours[name] for name in PASSED if name in ours}
