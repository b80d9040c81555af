"""Read a rank's report as untrusted data, because a job's user may write anything into it.

The user of a job owns the job's mailbox. So a report can be anything: a fifo, a link, a million bytes, numbers of 400
digits, brackets 200,000 deep. Only this module reads report files, so no other code has to check them. The result is a
`RankReport`, with every field of the right type and within its bounds (`powerflow.gangs.report_bounds`). If the file is
no report, the result is a `Nonsense` with the reason, and the job fails.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from powerflow.elastic.mailbox import Phase, RankReport
from powerflow.gangs.context import open_folder
from powerflow.gangs.report_bounds import LEAST_STEP_S, MOST_BATCH, MOST_COUNT, MOST_S, MOST_UNIX_S
from powerflow.gangs.state_file import GangFailure

#: Largest report, bytes; a real one has 500.
MOST_BYTES = 1 << 16
#: Characters of a note that are kept.
NOTE_CHARS = 500
#: Characters of a wrong value that are shown.
_SHOWN = 40

_BATCHES = frozenset({"generation", "local_batch", "accumulation", "global_batch"})

_CHECK = "`powerflow elastic check` names the lines to change, or submit the job with rescale: restart"
#: Parts of the traceback of a script that torchrun should have started, and what they mean.
_FOR_TORCHRUN = {
    ("init_process_group(", "_env_rendezvous_handler", "/deepspeed/"): (
        "its script opens a torch.distributed process group itself, and has not called elastic.init (for FSDP or"
        f" DeepSpeed only rescale: restart is possible): {_CHECK}"
    ),
    tuple(f"KeyError: '{name}'" for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")): (
        f"its script reads an environment variable that only torchrun sets: {_CHECK}"
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Nonsense:
    """The reason why a file is not a valid report, as the end of the sentence "its report …"."""

    why: str


def read_report(ranks: Path, name: str) -> RankReport | Nonsense | None:
    """Read a rank's report from the job's mailbox.

    Args:
        ranks: Folder with the reports of one job.
        name: Name of the rank.

    Returns:
        The report, or the reason why the file is no report. None if there is no file, if the file is empty after a
        power failure, or if the file system does not answer now.
    """
    try:
        text = _read(ranks, f"{name}.json")
        return None if text is None else _report(text, name)
    except _NoReport as error:
        return Nonsense(str(error))


def refusal(
    lost: Iterable[str],
    reports: Mapping[str, RankReport],
    code: Callable[[str], int | None],
    last_lines: Callable[[str], Iterable[str]],
) -> GangFailure | None:
    """Return the reason why PowerFlow refused the script of one of the lost ranks; None if it refused none.

    The job is not tried again, because its script would be refused again.

    Args:
        lost: Ranks that ended unexpectedly.
        reports: Last reports of the ranks.
        code: Returns a rank's exit code.
        last_lines: Returns the last lines of a rank's log.
    """
    for name in lost:
        report = reports.get(name)
        if not code(name):
            continue
        if report is not None and report.refusal:
            return GangFailure(code(name), f"{name} was refused: {report.refusal}", name, final=True)
        lines = list(last_lines(name)) if report is None else []
        for signs, why in _FOR_TORCHRUN.items():
            if any(sign in line for line in lines for sign in signs):
                return GangFailure(code(name), f"{name} exited with code {code(name)}: {why}", name, final=True)
    return None


class _NoReport(Exception):
    pass


def _read(ranks: Path, file_name: str) -> bytes | None:
    """Return the content of a plain file in a folder that is no link; None if there is no file."""
    try:
        with open_folder(ranks) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(file_name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EACCES):
            raise _NoReport(f"cannot be read ({error.strerror})") from None
        return None  # the disk, or the network: it may answer the next time
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise _NoReport("is not a regular file")
        text = os.read(file, MOST_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(file)
    if len(text) > MOST_BYTES:
        raise _NoReport(f"is larger than {MOST_BYTES} bytes")
    return text if text.strip(b"\0") else None


def _report(text: bytes, name: str) -> RankReport:
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise _NoReport("has too many nested brackets") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are, too; and numbers of 5,000 digits
        raise _NoReport(f"is not JSON ({_short(error)})") from None
    if not isinstance(content, dict):
        raise _NoReport("is not a JSON object")
    # fields of a later version are ignored
    said = {key: content[key] for key in _READERS if key in content}
    if missing := _REQUIRED - said.keys():
        raise _NoReport(f"lacks {', '.join(sorted(missing))}")
    report = RankReport(**{key: _READERS[key](key, value) for key, value in said.items()})
    if report.name != name:
        raise _NoReport(f"is that of another rank, {_short(report.name)}")
    if report.timed_steps * LEAST_STEP_S > report.timed_s:
        raise _NoReport(f"says {report.timed_steps} steps took {report.timed_s:g} s, which is too short")
    return report


def _no_constant(word: str) -> NoReturn:
    raise _NoReport(f"has the value {word}, which is not a number")


def _short(value: object) -> str:
    """Return any value as a short piece of plain text."""
    if isinstance(value, int) and not -(10**30) < value < 10**30:
        return "a number of more than 30 digits"
    text = _printable(value if isinstance(value, str) else str(value), _SHOWN + 1)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _printable(text: str, most: int) -> str:
    """Return the first ``most`` characters of a text, without those that a line, terminal or database cannot hold."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:most])


def _count(key: str, value: object) -> int:
    most = MOST_BATCH if key in _BATCHES else MOST_COUNT
    if type(value) is not int or not 0 <= value <= most:
        raise _NoReport(f"says {key} is {_short(value)}, not a whole number from 0 to {most}")
    return value


def _count_or_none(key: str, value: object) -> int | None:
    return None if value is None else _count(key, value)


def _seconds(key: str, value: object) -> float:
    most = MOST_UNIX_S if key == "phase_s" else MOST_S
    if type(value) not in (int, float) or not 0 <= value <= most:  # type: ignore[operator]
        raise _NoReport(f"says {key} is {_short(value)}, not seconds from 0 to {most:g}")
    return float(value)  # type: ignore[arg-type]


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _NoReport(f"says {key} is {_short(value)}, not text")
    return _printable(value, NOTE_CHARS)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _NoReport(f"says {key} is {_short(value)}, not true or false")
    return value


def _phase(key: str, value: Any) -> Phase:
    try:
        return Phase(value)
    except (ValueError, TypeError):
        raise _NoReport(f"says {key} is {_short(value)}, which does not exist") from None


#: How each type of field is read; a type that is not here is a defect, found when this module is imported.
_KINDS: dict[str, Callable[[str, Any], Any]] = {
    "int": _count,
    "int | None": _count_or_none,
    "float": _seconds,
    "str": _text,
    "bool": _flag,
    "Phase": _phase,
}
_FIELDS = dataclasses.fields(RankReport)
_READERS = {field.name: _KINDS[str(field.type)] for field in _FIELDS}
_REQUIRED = {field.name for field in _FIELDS if field.default is dataclasses.MISSING}
