"""Define a link: whatever carries sealed requests from the controller to the agent of one machine."""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """A way to the agent of one machine, used by the engine's own event loop only.

    Attributes:
        what: What the link is, for messages: an address, for example.
    """

    what: str

    async def request(self, payload: bytes, timeout_s: float) -> bytes:
        """Send a payload to the agent, and return its answer. Several requests may be under way.

        Raises:
            TimeoutError: No answer came in time. It may still come, and is then ignored.
            ConnectionError: The link has ended.
        """
        ...

    async def closed(self) -> None:
        """Wait until the link has ended."""
        ...

    def close(self) -> None:
        """End the link. The agent and its ranks go on."""
        ...
