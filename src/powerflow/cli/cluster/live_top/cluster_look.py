"""Ask the controller for all that the live view of the cluster shows, in one look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from powerflow.api import operations as ops
from powerflow.api.governance import BudgetRecord
from powerflow.api.records import NodeRecord, Top
from powerflow.cli.cluster.client import ControllerClient
from powerflow.cli.sanitize import harmless


@dataclass(frozen=True, slots=True)
class ClusterLook:
    """The cluster with its jobs, its nodes, and its energy budgets, at about the same moment."""

    top: Top
    nodes: Sequence[NodeRecord]
    budgets: Sequence[BudgetRecord]


def look(controller: ControllerClient) -> ClusterLook:
    """Return the cluster as it is now, with harmless texts: three requests, however many jobs there are."""
    top, nodes, budgets = controller.ask(ops.TOP), controller.ask(ops.NODES), controller.ask(ops.BUDGETS)
    return harmless(ClusterLook(top, nodes.items, budgets.items))
