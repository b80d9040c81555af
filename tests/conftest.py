"""What holds for every test."""

from __future__ import annotations

import signal

pytest_plugins = ["tests.store.databases"]

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every program that they start inherits
# that: tests that interrupt a program would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
