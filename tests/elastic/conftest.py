"""What holds for every test of elastic jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_group_left() -> Iterator[None]:
    """Close the process group that a run without PowerFlow has until its process ends."""
    yield
    if group := sys.modules.get("powerflow.elastic.group"):
        group.close()
