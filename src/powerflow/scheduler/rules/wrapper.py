"""Policies around policies: how to find one of them."""

from __future__ import annotations

from typing import Any, TypeVar

from powerflow.policy.protocol import Policy

Layer = TypeVar("Layer")


def layer(policy: Policy, kind: type[Layer]) -> Layer | None:
    """The outermost policy of a kind among those that a policy consists of; None: it has none."""
    found: Any = policy
    while found is not None and not isinstance(found, kind):
        found = getattr(found, "inner", None)
    return found
