"""How a process has ended, in words."""

from __future__ import annotations

import pytest

from powerflow.gangs.exit_text import how_it_ended


@pytest.mark.parametrize(
    ("code", "out_of_memory", "words"),
    [
        (3, None, "exited with code 3"),
        (3, False, "exited with code 3"),
        (128, None, "exited with code 128"),
        (255, None, "exited with code 255"),
        (137, True, "exited with code 137 (SIGKILL; out of memory)"),
        (137, False, "exited with code 137 (SIGKILL; not out of memory)"),
        (137, None, "exited with code 137 (SIGKILL; perhaps out of memory: not known)"),
        (139, None, "exited with code 139 (SIGSEGV)"),
        (143, False, "exited with code 143 (SIGTERM)"),
        (-9, True, "was ended by signal 9 (SIGKILL; out of memory)"),
        (-9, None, "was ended by signal 9 (SIGKILL; perhaps out of memory: not known)"),
        (-11, None, "was ended by signal 11 (SIGSEGV)"),
        (-63, None, "was ended by signal 63"),
        (1, True, "exited with code 1, after the kernel had killed a part of it for lack of memory"),
    ],
)
def test_the_signal_is_named_and_whether_memory_was_the_cause(
    code: int, out_of_memory: bool | None, words: str
) -> None:
    assert how_it_ended(code, out_of_memory) == words


def test_memory_is_not_suspected_of_what_powerflow_has_killed() -> None:
    assert how_it_ended(-9, asked=True) == "was ended by signal 9 (SIGKILL)"


def test_an_unknown_end() -> None:
    assert how_it_ended(None).startswith("was lost: it is not known how it ended")
