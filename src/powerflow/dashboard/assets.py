"""Hold the files that pages refer to: the style sheet, the icon, and the live page's script where it was built."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from powerflow.look.pages import base_css

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
#: Path under which the service has these files.
STATIC = "/static/"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages refer to: its path in a URL, which changes with its content, its media type and content."""

    path: str
    media_type: str
    content: bytes


@cache
def assets() -> Mapping[str, Asset]:
    """Return the files by their short names, such as ``dashboard.css``."""
    return {file.name: _asset(file) for file in sorted(_STATIC.iterdir()) if file.suffix in _TYPES}


def _asset(file: Path) -> Asset:
    content = file.read_bytes()
    if file.name == "dashboard.css":
        content = base_css().encode() + content
    mark = hashlib.sha256(content).hexdigest()[:12]
    return Asset(f"{STATIC}{file.stem}-{mark}{file.suffix}", _TYPES[file.suffix], content)
