"""Fetch a signal over HTTP. The only part of this room that does I/O: the scheduler is given what came of it."""

from __future__ import annotations

import time

from powerflow.energy.kinds import Kind
from powerflow.energy.signal import MAX_AGE_S, Signal, read_signal
from powerflow.errors import InputError

#: A year of quarter hours is some two megabytes; more is no signal.
MOST_BYTES = 4 * 1024 * 1024


def poll(url: str, kind: Kind, *, fallback: float, max_age_s: float = MAX_AGE_S, timeout_s: float = 10.0) -> Signal:
    """Fetch a series in the CSV of `powerflow.energy.signal.read_signal`.

    Args:
        url: An http or https address. Redirects are not followed: say where it is.
        kind, fallback, max_age_s: As of `Signal`.
        timeout_s: Seconds for all of it.

    Raises:
        InputError: It cannot be had (exit code 5), or is no signal.
    """
    import httpx

    fix = "give an address that answers with a CSV"
    deadline = time.monotonic() + timeout_s
    content = bytearray()
    try:
        with httpx.stream("GET", url, timeout=timeout_s, headers={"accept": "text/csv"}) as response:
            if response.status_code != 200:
                raise InputError(f"answers {response.status_code}", where=url, fix=fix, exit_code=5)
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise InputError(f"sends more than {MOST_BYTES} bytes", where=url, fix=fix, exit_code=5)
                if time.monotonic() > deadline:  # httpx's own limit is for each read: a trickle would never end
                    raise InputError(f"was not done in {timeout_s:g} s", where=url, fix=fix, exit_code=5)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise InputError(
            f"cannot be read ({str(error) or type(error).__name__})", where=url, fix=fix, exit_code=5
        ) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8", where=url, fix=fix) from None
    return read_signal(text, kind, source=url, fallback=fallback, max_age_s=max_age_s)
