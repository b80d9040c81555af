"""Split the text output of Slurm's ``sacct`` into columns.

The text has a header with column names, then one record per line, with a delimiter between the fields. With the options
``-P`` and ``-p`` the delimiter is a bar (``-p`` also puts it at the end of a line); ``--delimiter`` sets any other
text. A table that was edited in a spreadsheet or pandas may have commas, semicolons or tabs, quotes, or an index
column.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import pairwise

# fmt: off
_NAMES = (
    "Account", "AdminComment", "AllocCPUS", "AllocGRES", "AllocNodes", "AllocTRES", "AssocID", "Cluster",
    "Comment", "Constraints", "CPUTime", "CPUTimeRAW", "DBIndex", "DerivedExitCode", "Elapsed", "ElapsedRaw",
    "Eligible", "End", "ExitCode", "Flags", "GID", "Group", "JobID", "JobIDRaw", "JobName", "NCPUS", "NNodes",
    "NodeList", "NTasks", "Partition", "Planned", "Priority", "QOS", "Reason", "ReqCPUS", "ReqGRES", "ReqNodes",
    "ReqTRES", "Reserved", "Start", "State", "Submit", "SubmitLine", "Suspended", "TimelimitRaw", "Timelimit",
    "UID", "User", "WCKey", "WorkDir",
)
# fmt: on
_CANONICAL = {name.lower(): name for name in _NAMES}
_HEADER_WITHIN = 20  # a shell, a module or a warning may have written lines before the header
_QUOTING = ",;\t"  # delimiters of programs that quote fields; sacct itself never does
_NAME = re.compile(r"[A-Za-z]+")


def columns_of(line: str) -> tuple[list[str], str] | None:
    """Return the column names and the delimiter of a header line; None if the line is not a header.

    A header has a column for the job number, and at least one for state, submission or elapsed time, with the same
    delimiter between all names.
    """
    found = list(_NAME.finditer(line))
    known = [match for match in found if match.group().lower() in _CANONICAL]
    if len(known) < 2 or len(known) < len(found) / 2:
        return None
    between = [line[a.end() : b.start()].replace('"', "") for a, b in pairwise(found)]
    delimiter = max(set(between), key=between.count)
    if not delimiter.strip() and delimiter != "\t":
        return None  # blanks: fixed width
    names = [name.strip().strip('"') for name in line.split(delimiter)]
    names = [_CANONICAL.get(name.lower(), name) for name in names]
    have = set(names)
    if not have & {"JobID", "JobIDRaw"} or not have & {"State", "Submit", "Elapsed", "ElapsedRaw"}:
        return None
    return names, delimiter


def fields_of(line: str, delimiter: str) -> Sequence[str]:
    """Split a line into fields.

    Text in quotes is kept together if the delimiter is a comma, a semicolon or a tab.
    """
    if delimiter in _QUOTING and '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            return [line]
    return line.split(delimiter)


def header_within(head: str) -> tuple[int, list[str], str] | None:
    """Find the header of ``sacct`` output in the beginning of a file; return None if no line is a header.

    Returns:
        Line number of the header (from 0), column names, and delimiter.
    """
    for position, line in enumerate(head.splitlines()[:_HEADER_WITHIN]):
        if found := columns_of(line.rstrip("\r\n")):
            return position, *found
    return None
