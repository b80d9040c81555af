"""What holds for tests of the service."""

from __future__ import annotations

import pytest


@pytest.fixture
def nodeid(request: pytest.FixtureRequest) -> None:
    """What schemathesis 4 still reads, and pytest 9.2 no longer has."""
    request.node._nodeid = request.node.nodeid
