"""Give a host of a test bed another time of day: a library that all its programs load changes what the kernel says.

Linux has no namespace for the time of day. So the host gets its own ``/etc/ld.so.preload``, with a small C library that
replaces the functions which read the time of day. It holds for everything that starts on the host: agents, shims, ranks
of any language, shells. Monotonic clocks and the times of files stay as they are. The skew may change at any moment, as
a clock that is set.

(Debian's libfaketime cannot do this: with it, ``time.sleep`` and waits with a timeout fail in Python 3.11.)
"""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess

from powerflow.testing.hosts import Hosts

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long *skew_s;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open("/etc/clock-skew", O_RDONLY | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED : mmap(0, sizeof *skew_s, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) skew_s = page;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && skew_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *skew_s;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    int failed = clock_gettime(CLOCK_REALTIME, &time);
    if (now && !failed) { now->tv_sec = time.tv_sec; now->tv_usec = time.tv_nsec / 1000; }
    return failed;
}
time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now) *now = time.tv_sec;
    return time.tv_sec;
}
int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}
"""


@functools.cache
def why_not() -> str:
    """Say in one line why no host can have another time of day; return "" if it can."""
    return "" if shutil.which("cc") else "another time of day for a host needs a C compiler (cc)"


def set_clock(hosts: Hosts, i: int, skew_s: int) -> None:
    """Set the time of day of a host: so many seconds ahead of this machine's.

    Programs that run already on the host see it only if the host had another time of day when they started. A host that
    boots has this machine's time of day.
    """
    skew = hosts.disk(i) / "clock-skew"
    if not skew.exists():
        source, library = hosts.disk(i) / "skew.c", hosts.disk(i) / "skew.so"
        source.write_text(_SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        skew.write_bytes(struct.pack("=q", 0))
    if "clock-skew" not in hosts.output(i, ["cat", "/proc/self/mounts"]):
        etc = hosts.disk(i) / "etc"
        shutil.rmtree(etc, ignore_errors=True)
        shutil.copytree("/etc", etc, symlinks=True)
        (etc / "clock-skew").touch()
        (etc / "ld.so.preload").write_text(f"{hosts.disk(i) / 'skew.so'}\n")
        hosts.output(i, ["mount", "--bind", str(etc), "/etc"])
        hosts.output(i, ["mount", "--bind", str(skew), "/etc/clock-skew"])
    with skew.open("r+b") as file:  # in place: programs have it in their memory
        file.write(struct.pack("=q", skew_s))
