"""Say the state of the page in as few bytes as possible: what a browser gets first, and what has changed since.

A state is nested dicts, lists and scalars, without None. Changes are JSON merge patches (RFC 7396): a dict with the
keys that have changed, where None removes a key; lists are replaced whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from powerflow.dashboard.assets import assets
from powerflow.dashboard.cluster_map import NodeTile
from powerflow.dashboard.cluster_view import ClusterView
from powerflow.dashboard.job_rows import JobLine

State = Mapping[str, Any]
#: Words that only the server needs begin with one of these.
_NOT_SENT = (
    "job_",
    "act_",
    "sure_",
    "do_",
    "sign_",
    "saved",
    "budget_",
    "power_",
    "no_budget",
    "no_cap",
    "energy",
    "options",
    "otherwise",
    "ends_",
    "uses",
)
#: Name of the live page's script among the assets; it is missing where it could not be built.
SCRIPT = "live.js"


def state_of(view: ClusterView, words: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of the page of the cluster. ``words`` are those of its language."""
    rows = ("running", "waiting")
    whole = {
        field: getattr(view, field)
        for field in ClusterView.__slots__
        if field not in ("nodes", "gauges", "keys", *rows)
    }
    state = {
        **whole,
        "gauges": [asdict(gauge) for gauge in view.gauges],
        "keys": [asdict(key) for key in view.keys],
        "nodes": {node.name: _node(node) for node in view.nodes},
        "order": [node.name for node in view.nodes],
        **{name: _rows(getattr(view, name)) for name in rows},
        "words": {key: text for key, text in words.items() if not key.startswith(_NOT_SENT)},
        "script": assets()[SCRIPT].path if SCRIPT in assets() else "",
    }
    return {key: _known(value) for key, value in state.items() if value is not None}


def merge_patch(old: State, new: State) -> dict[str, Any]:
    """Return the JSON merge patch that makes ``new`` of ``old``; {} if they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch


def _node(node: NodeTile) -> dict[str, Any]:
    """Return a node with its GPUs as parallel lists: watts of 1,000 GPUs change every time, and little else does."""
    return {
        "kind": node.kind,
        "state": node.state,
        "sign": node.sign,
        "label": node.label,
        "power": node.power,
        "note": node.note,
        "states": [gpu.state for gpu in node.gpus],
        "jobs": [gpu.job for gpu in node.gpus],
        "colours": [gpu.colour for gpu in node.gpus],
        "labels": [gpu.label for gpu in node.gpus],
        "clocks": [gpu.clock for gpu in node.gpus],
        "watts": [gpu.power for gpu in node.gpus],
        "outs": [gpu.out for gpu in node.gpus],
    }


def _rows(rows: Sequence[JobLine]) -> dict[str, Any]:
    return {
        "order": [row.id for row in rows],
        "by": {row.id: {key: value for key, value in asdict(row).items() if key != "id"} for row in rows},
    }


def _known(value: Any) -> Any:
    """Leave out what is None: in a merge patch it would mean that a key is gone."""
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_known(item) for item in value]
    return value
