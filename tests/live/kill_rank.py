"""A rank for the kill tests: trains nothing, and notes its life, for others to check, in a file that it only adds to.

    python kill_rank.py LEDGER SECONDS              lasts so long, anywhere
    python kill_rank.py LEDGER SECONDS --in-place   a fake in-place rank of about so long

Lines: ``start NAME PID GPUS``, then ``end NAME PID HOW``: done, told (by its mailbox) or term (by SIGTERM); of in-place
ranks that are done or told, the generation that they ended in comes after that. Last in each line is when it was.
"""

from __future__ import annotations

import os
import signal
import sys
import time

LEDGER, SECONDS = sys.argv[1], float(sys.argv[2])
NAME = os.environ["POWERFLOW_RANK"]
STEP_S = 0.1


def note(*words: object) -> None:
    line = " ".join(map(str, (*words, f"{time.monotonic():.3f}"))) + "\n"
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, line.encode())
    os.close(file)


def terminated(*_: object) -> None:
    note("end", NAME, os.getpid(), "term")
    os._exit(0)


def in_place() -> str:
    from powerflow.elastic.mailbox import JOB_DIR, Mailbox, Phase, RankReport

    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, os.path.join(tests, "gangs"))
    from fake_rank import FakeRank  # type: ignore[import-not-found]

    def alive(report: RankReport) -> bool:
        try:
            os.kill(report.pid, 0)
        except ProcessLookupError:
            return False
        return True

    mailbox = Mailbox(os.environ[JOB_DIR])
    rank = FakeRank(mailbox, NAME, max(1, int(SECONDS / STEP_S)), alive, pid=os.getpid(), step_s=STEP_S)
    while rank.advance() is None:
        time.sleep(STEP_S / 3)
    return f"{'done' if rank.phase is Phase.DONE else 'told'} {rank.generation}"


signal.signal(signal.SIGTERM, terminated)
note("start", NAME, os.getpid(), f"{os.environ.get('POWERFLOW_GPUS')}")
if "--in-place" in sys.argv:
    how = in_place()
else:
    until_s = time.monotonic() + SECONDS
    while time.monotonic() < until_s:
        time.sleep(0.02)
    how = "done"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("end", NAME, os.getpid(), how)
