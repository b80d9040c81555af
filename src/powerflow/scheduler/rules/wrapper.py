"""Put rules around a policy: each rule is a policy that asks another one and may change its answer."""

from __future__ import annotations

from typing import Any, TypeVar

from powerflow.policy.protocol import Policy

_Kind = TypeVar("_Kind")


class Wrapper:
    """Base class of policies around an ``inner`` policy; has the name, needs and period of ``inner``."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s: float | None = inner.period_s


def find_wrapper(policy: Policy, kind: type[_Kind]) -> _Kind | None:
    """Return the outermost policy of class ``kind`` among a policy and those that it wraps; None if there is none."""
    found: Any = policy
    while found is not None and not isinstance(found, kind):
        found = getattr(found, "inner", None)
    return found
