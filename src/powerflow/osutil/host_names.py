"""Compare names of hosts that different programs write differently."""

from __future__ import annotations


def short_host(name: str) -> str:
    """Return the short host name in lower case, of a name with or without domain and port (``N7.site.org:9400``)."""
    host = name.strip().lower()
    if host.startswith("[") or host.replace(".", "").partition(":")[0].isdigit():  # an address stays as it is
        return host.rpartition(":")[0] or host if host.count(":") == 1 or host.startswith("[") else host
    return host.partition(":")[0].partition(".")[0]
