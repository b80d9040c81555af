"""Write specs, statuses and nodes as JSON data, and read them again. Unknown fields of later versions are ignored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from powerflow.engine.protocol import EngineNode, RankName, RankSpec, RankState, RankStatus

Row = dict[str, Any]


def spec_row(spec: RankSpec) -> Row:
    """Return a rank's spec as JSON data, with its environment. Send it sealed only."""
    row = {field.name: getattr(spec, field.name) for field in fields(RankSpec)}
    return row | {"name": str(spec.name), "env": dict(spec.env)}


def spec_from_row(row: Mapping[str, Any]) -> RankSpec:
    """Return the spec that JSON data from `spec_row` describe."""
    known = {field.name: row[field.name] for field in fields(RankSpec) if field.name in row}
    known |= {"name": RankName.parse(row["name"]), "command": tuple(row["command"]), "gpus": tuple(row["gpus"])}
    return RankSpec(**known)


def status_row(status: RankStatus) -> Row:
    """Return a rank's status as JSON data, without the fields that have their default value."""
    row: Row = {"name": str(status.name), "node": status.node, "state": status.state.value}
    for field in fields(RankStatus):
        value = getattr(status, field.name)
        if field.name not in row and value != field.default and not (isinstance(value, float) and math.isnan(value)):
            row[field.name] = value
    return row


def status_from_row(row: Mapping[str, Any]) -> RankStatus:
    """Return the status that JSON data from `status_row` describe."""
    known = {field.name: row[field.name] for field in fields(RankStatus) if field.name in row}
    unset = {"pid": 0, "code": None, "started_s": math.nan, "ended_s": math.nan}
    name, state, gpus = RankName.parse(row["name"]), RankState(row["state"]), tuple(row.get("gpus", ()))
    return RankStatus(**(unset | known | {"name": name, "state": state, "gpus": gpus}))


def node_row(node: EngineNode) -> Row:
    """Return a node as JSON data."""
    row = {field.name: getattr(node, field.name) for field in fields(EngineNode)}
    return row | {"labels": dict(node.labels), "versions": dict(node.versions), "seen_s": None}


def node_from_row(row: Mapping[str, Any]) -> EngineNode:
    """Return the node that JSON data from `node_row` describe. It does not count as reachable."""
    known = {field.name: row[field.name] for field in fields(EngineNode) if field.name in row}
    return EngineNode(**(known | {"up": False, "seen_s": math.nan}))
