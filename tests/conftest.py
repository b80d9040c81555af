"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

pytest_plugins = ["tests.store.databases"]

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every program that they start inherits
# that: tests that interrupt a program would wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Stores commit some ten thousand times in these tests, and wait for the disk each time: a disk in memory does not.
_MEMORY = "/dev/shm"
if os.path.ismount(_MEMORY) and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**31:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)
    tempfile.tempdir = _MEMORY
