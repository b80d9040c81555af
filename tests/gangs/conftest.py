"""What holds for tests of gangs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from powerflow.gangs import log_matcher


@pytest.fixture(scope="session", autouse=True)
def _patient_matcher() -> Iterator[None]:
    """Steps stand in a log's answer at once, however busy this machine is: tests have a clock of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_matcher, "WAIT_S", 600.0)
        yield
