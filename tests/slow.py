"""Tests that take long, and whose like also runs every time."""

import os

import pytest

#: Mark of such a test, or of one of its cases.
slow = pytest.mark.skipif(
    not os.environ.get("POWERFLOW_TEST_ALL"), reason="takes long, and others like it run; POWERFLOW_TEST_ALL=1 runs it"
)
