"""What a check says of a line of a script."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

from powerflow.elastic.check.project import Project, line_of
from powerflow.elastic.check.source import Source


class Finding(NamedTuple):
    """Something in a script that breaks or gives wrong results when the number of GPUs changes.

    Attributes:
        file: The file, as the user named it.
        line: The line, from 1.
        rule: Short name of the check that found it.
        what: What is wrong.
        fix: What would be right.
    """

    file: str
    line: int
    rule: str
    what: str
    fix: str


#: A check: looks at one file of a script and yields what it finds.
Check = Callable[[Project, Source], Iterator[Finding]]


def finding(source: Source, node: ast.AST, rule: str, what: str, fix: str) -> Finding:
    """Return a finding about a node of a file."""
    return Finding(source.name, line_of(node), rule, what, fix)
