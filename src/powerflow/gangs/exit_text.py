"""Describe in plain words how a process has ended."""

from __future__ import annotations

from powerflow.api.exit_code import signal_name

#: What is said of a process that was ended by SIGKILL, by whether the kernel killed it for lack of memory.
_MEMORY = {True: "out of memory", False: "not out of memory", None: "perhaps out of memory: not known"}


def how_it_ended(code: int | None, out_of_memory: bool | None = None, *, asked: bool = False) -> str:
    """Describe in plain words how a process with this exit code ended.

    Args:
        code: Exit code; −N if signal N ended the process, None if nobody knows it.
        out_of_memory: As in `powerflow.engine.protocol.RankStatus`.
        asked: True if PowerFlow has sent the process signals, so that memory need not be the cause.
    """
    if code is None:
        return "was lost: it is not known how it ended (its node, or the process that watched it, has ended)"
    name = signal_name(code)
    memory = _MEMORY[out_of_memory] if name == "SIGKILL" and not asked else ""
    cause = "; ".join(filter(None, (name, memory)))
    text = f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"
    part = ", after the kernel had killed a part of it for lack of memory" if out_of_memory and not memory else ""
    return f"{text} ({cause}){part}" if cause else f"{text}{part}"
