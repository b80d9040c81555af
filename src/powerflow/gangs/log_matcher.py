"""Match users' patterns in a separate process, so that the controller's loop does not wait.

The library RE2 never takes exponential time (`powerflow.api.patterns`), but a large pattern on a long log is still
slow. So a thread sends lines to a small process, one request after the other. If a request takes too long, the kernel
ends this process, and the request's pattern is not used again. Most answers come at once, so the loop waits a moment
for each answer. Such waits take at most a tenth of the loop's time; late answers are read in its next turn.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

#: CPU seconds that one request may take; a pattern that takes longer is given up.
PATIENCE_S = 0.25
#: Longest wait for one answer, and the share of its time that the caller may spend waiting.
WAIT_S, WAIT_SHARE = 0.05, 0.1
#: Bytes that RE2 may use for one compiled pattern; patterns that are kept compiled.
_PATTERN_BYTES, _PATTERNS = 1 << 20, 64
#: Seconds to wait after the system refused to start the process.
_AGAIN_S = 1.0

_PROCESS = f"""
import functools, json, signal, sys
sys.path.append(sys.argv[1])
import re2
options = re2.Options()
options.max_mem, options.log_errors = {_PATTERN_BYTES}, False
compiled = functools.lru_cache({_PATTERNS})(lambda pattern: re2.compile(pattern, options))
for request in sys.stdin:
    pattern, lines = json.loads(request)
    signal.setitimer(signal.ITIMER_VIRTUAL, {PATIENCE_S})
    try:
        found = [match.groupdict() for match in map(compiled(pattern).search, lines) if match]
    except re2.error:
        found = "is no regular expression that RE2 can read"
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    sys.stdout.write(json.dumps(found) + "\\n")
    sys.stdout.flush()
"""


@dataclass(slots=True)
class Matching:
    """A request to match lines against a pattern, and its answer.

    Attributes:
        done: Set when there is an answer.
        groups: Named groups of every line that matches, in order; None if the pattern could not be used.
        fault: Why the pattern could not be used.
    """

    pattern: str
    lines: list[str]
    done: threading.Event = field(default_factory=threading.Event)
    groups: list[dict[str, str | None]] | None = None
    fault: str = ""


class Matcher:
    """Match lines of logs against patterns in a separate process.

    The first request starts this process and a thread for it.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Matching | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._may_wait_s = WAIT_S
        self._asked_s = time.monotonic()
        self._closed = threading.Event()

    def ask(self, pattern: str, lines: list[str]) -> Matching:
        """Start to match lines against a pattern, and return the request. Call it from one thread only.

        Usually the answer is in the request when this method returns; otherwise the answer comes later.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="powerflow-patterns", daemon=True)
            self._thread.start()
        asked = Matching(pattern, lines)
        began_s = time.monotonic()
        self._may_wait_s = min(WAIT_S, self._may_wait_s + WAIT_SHARE * (began_s - self._asked_s))
        self._requests.put(asked)
        asked.done.wait(max(0.0, self._may_wait_s))
        self._asked_s = time.monotonic()
        self._may_wait_s -= self._asked_s - began_s
        return asked

    def close(self) -> None:
        """End the process that matches lines, and the thread that talks to it."""
        self._closed.set()
        self._requests.put(None)
        process = self._process
        if process is not None:
            process.kill()
        if self._thread is not None:
            self._thread.join(5.0)

    def _work(self) -> None:
        while (asked := self._requests.get()) is not None and not self._closed.is_set():
            self._answer(asked)
            asked.done.set()
        self._end()

    def _answer(self, asked: Matching) -> None:
        question = json.dumps([asked.pattern, asked.lines]) + "\n"
        for _ in range(2):  # try again if somebody else has ended the process
            answer, code = self._talk(question)
            if answer:
                found = json.loads(answer)
                asked.groups, asked.fault = (None, found) if isinstance(found, str) else (found, "")
                return
            if code == -signal.SIGVTALRM:
                break
        asked.fault = "takes too long"

    def _talk(self, question: str) -> tuple[str, int | None]:
        """Send a question to the process.

        Return its answer, or "" and the exit code with which the process has ended.
        """
        process = self._started()
        if process is None:
            return "", None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(question)
            process.stdin.flush()
            if answer := process.stdout.readline():
                return answer, None
        except (OSError, ValueError):
            pass
        return "", self._end()

    def _started(self) -> subprocess.Popen[str] | None:
        """Return the running process; None if the matcher was closed meanwhile."""
        import re2

        while self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _PROCESS, str(Path(re2.__file__).parents[1])],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            except OSError:  # no files or no memory: this passes
                if self._closed.wait(_AGAIN_S):
                    return None
        return self._process

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode
