"""Choose the language of a page, and give its words.

Names, and sentences that the scheduler writes (why a job waits, notices), are the same in all languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

#: Languages of the dashboard; the first one is used if a browser asks for none of them.
LANGUAGES = ("en", "ja")


def preferred(accept_language: str) -> str:
    """Return the language of `LANGUAGES` that a browser prefers, by its header ``Accept-Language`` (RFC 9110)."""
    wanted: dict[str, float] = {}
    for part in accept_language[:512].split(","):
        name, _, quality = part.strip().partition(";q=")
        language = name.strip().partition("-")[0].lower()
        try:
            wanted[language] = max(wanted.get(language, 0.0), float(quality or 1.0))
        except ValueError:
            continue
    return max(LANGUAGES, key=lambda language: wanted.get(language, 0.0))  # of equal ones the first


@cache
def words(language: str) -> Mapping[str, str]:
    """Return the words of a language: key → text, which may have fields such as ``{busy}``."""
    path = Path(__file__).parent / "words" / f"{language}.yaml"
    return {str(key): str(text) for key, text in yaml.safe_load(path.read_text("utf-8")).items()}
