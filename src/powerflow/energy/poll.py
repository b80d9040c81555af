"""Fetch a signal (tariff or carbon intensity) over HTTP. No other module of `powerflow.energy` does I/O."""

from __future__ import annotations

import time

from powerflow.energy.kinds import MAX_AGE_S, Kind
from powerflow.energy.signal import Signal, read_signal
from powerflow.errors import InputError

#: A year of quarter-hour values takes about 2 MB, so a larger answer is not a signal.
MOST_BYTES = 4 * 1024 * 1024


def poll(url: str, kind: Kind, *, fallback: float, max_age_s: float = MAX_AGE_S, timeout_s: float = 10.0) -> Signal:
    """Fetch a signal as CSV from a URL; `powerflow.energy.signal.read_signal` describes the format.

    Args:
        url: An http or https address. Redirects are not followed.
        kind, fallback, max_age_s: As in `Signal`.
        timeout_s: Time limit for the whole download, in seconds.

    Raises:
        InputError: The signal cannot be fetched (exit code 5), or the answer is not a signal.
    """
    import httpx

    fix = "give an address that answers with a CSV"
    deadline = time.monotonic() + timeout_s
    content = bytearray()
    try:
        with httpx.stream("GET", url, timeout=timeout_s, headers={"accept": "text/csv"}) as response:
            if response.status_code != 200:
                raise InputError(f"answers with HTTP status {response.status_code}", where=url, fix=fix, exit_code=5)
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise InputError(f"sends more than {MOST_BYTES} bytes", where=url, fix=fix, exit_code=5)
                if time.monotonic() > deadline:  # httpx limits each read only, so slow single bytes would never end
                    raise InputError(f"took longer than {timeout_s:g} s", where=url, fix=fix, exit_code=5)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise InputError(
            f"cannot be read ({str(error) or type(error).__name__})", where=url, fix=fix, exit_code=5
        ) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("is not text in UTF-8", where=url, fix=fix) from None
    return read_signal(text, kind, source=url, fallback=fallback, max_age_s=max_age_s)
