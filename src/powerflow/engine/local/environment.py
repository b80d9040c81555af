"""Build the environment variables of the fork server. Every rank can read them, so they must hold no secrets.

A rank that runs in the preloaded interpreter is a fork of the fork server. So its memory and its ``/proc/self/environ``
are those of the fork server. Any rank that runs as the fork server's user can also read ``/proc/PPID/environ``. The
process that starts the fork server may have a database's password or a cloud's keys in its environment. Therefore the
fork server gets a new environment: fixed values, and the few variables in `PASSED`, which say where libraries are.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

#: Variables that the fork server gets if they are set: without them the interpreter, its modules or the GPU's driver
#: are not found.
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
#: Search path of fork servers and ranks, which do not inherit the controller's search path.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def server_environment(ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables for a fork server.

    Args:
        ours: Environment variables of the process that starts the fork server.
    """
    built = {"PATH": PATH, "LANG": "C.UTF-8"}
    try:
        built["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:  # a user without an entry, as in containers
        built["HOME"] = "/"
    return built | {name: ours[name] for name in PASSED if name in ours}
