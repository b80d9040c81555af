"""Put rules around a policy: each rule is itself a policy, which asks an inner policy and may change its answer."""

from __future__ import annotations

from typing import Any, TypeVar

from powerflow.policy.protocol import Policy

_Kind = TypeVar("_Kind")


class Wrapper:
    """Base class of rules: a policy that asks an ``inner`` policy.

    A rule has the name of its inner policy (``name``), needs job sizes if the inner policy needs job sizes
    (``needs_sizes``), and must be asked as often as the inner policy (``period_s``). A subclass may set other values.
    """

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = inner.name
        self.needs_sizes = inner.needs_sizes
        self.period_s: float | None = inner.period_s


def find_wrapper(policy: Policy, kind: type[_Kind]) -> _Kind | None:
    """Find the first policy of a class in a chain of policies: a policy, its inner policy, and so on.

    Args:
        policy: The policy to begin with.
        kind: The class.

    Returns:
        The policy; None if no policy of this class is found.
    """
    found: Any = policy
    while found is not None and not isinstance(found, kind):
        found = getattr(found, "inner", None)
    return found
