"""A job that is never rescaled: it notes in a shared file that it lives, for some seconds.

machines_filler.py LEDGER SECONDS
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def main() -> None:
    """Note every tenth of a second that this process lives."""
    ledger = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def log(kind: str, **more: object) -> None:
        entry = {"kind": kind, "rank": os.environ["POWERFLOW_RANK"], "at_s": time.time(), **more}
        os.write(ledger, (json.dumps(entry) + "\n").encode())

    def leave(*_: object) -> None:
        log("end")
        os._exit(0)

    log("start", host=socket.gethostname(), pid=os.getpid(), boot=boot)
    signal.signal(signal.SIGTERM, leave)
    until_s = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until_s:
        time.sleep(0.1)
        log("lives")
    log("done")
    log("end")


if __name__ == "__main__":
    main()
