"""Make the environment in which Jinja renders pages, and give them their common style."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def environment(templates: Path) -> Environment:
    """Return an environment for the templates in a folder, which may import ``shared.html.j2`` of this package.

    Every value is escaped, and a template that uses an unknown name raises an error.
    """
    return Environment(
        loader=FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def base_css() -> str:
    """Return the style that all pages begin with: colours for light and dark, text, tables, lists of facts."""
    return (TEMPLATES / "base.css").read_text("utf-8")
