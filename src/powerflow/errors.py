"""Define `InputError`, the exception for every error in a user's input."""

from __future__ import annotations


class InputError(ValueError):
    """Error in the user's input: a value, file, option or request that cannot be used.

    The command line prints the error as one line, without a traceback, and exits with ``exit_code``.

    Args:
        what: What is wrong, as a clause: "duration is negative (-3)".
        where: Where the error is: a file, ``file:line``, an option or a field.
        fix: How to correct the error: "give seconds ≥ 0".
        exit_code: Exit code of the command: 1 failed, 2 wrong usage, 3 not found, 4 refused, 5 unreachable.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", exit_code: int = 2) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        self.exit_code = exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}; {self.fix}" if self.fix else head


def shortened(value: object) -> str:
    """Return a wrong value as an error message shows it: its ``repr``, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1]}"
