"""Render the pages of the dashboard as HTML. They can be read without any script."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from powerflow.api.cluster_api import ClusterApi
from powerflow.api.records import Caller
from powerflow.dashboard.assets import assets
from powerflow.dashboard.cluster_map import SIGNS
from powerflow.dashboard.cluster_view import cluster_view
from powerflow.dashboard.job_view import job_view
from powerflow.dashboard.language import words
from powerflow.look.pages import environment


@cache
def _environment() -> Environment:
    return environment(Path(__file__).parent / "templates")


def cluster_page(cluster: ClusterApi, caller: Caller, language: str) -> str:
    """Return the page of the whole cluster as it is now."""
    view = cluster_view(cluster, words(language))
    return _page("cluster.html.j2", language, caller=caller, view=view, signs=SIGNS)


def job_page(cluster: ClusterApi, job_id: str, now_s: float, caller: Caller, language: str) -> str:
    """Return the page of one job.

    Raises:
        NotFound: There is no such job.
    """
    return _page("job.html.j2", language, caller=caller, view=job_view(cluster, job_id, now_s, caller, words(language)))


def sign_in_page(to: str, language: str, *, refused: bool = False) -> str:
    """Return the form for a token. ``to`` is the path that its user wanted; ``refused`` after an unknown token."""
    return _page("sign_in.html.j2", language, caller=None, to=to, refused=refused)


def continue_page(to: str, language: str) -> str:
    """Return a page that loads the path ``to``.

    A browser does not send the cookie when a link of another site leads here, but it does from this page.
    """
    return _page("continue.html.j2", language, caller=None, to=to)


def problem_page(title: str, detail: str, fix: str, caller: Caller | None, language: str) -> str:
    """Return a page that says what went wrong, and what would be right."""
    return _page("problem.html.j2", language, caller=caller, title=title, detail=detail, fix=fix)


def _page(template: str, language: str, **context: Any) -> str:
    files: Mapping[str, str] = {name: asset.path for name, asset in assets().items()}
    return _environment().get_template(template).render(lang=language, w=words(language), files=files, **context)
