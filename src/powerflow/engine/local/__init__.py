"""The embedded engine: ranks are processes of this machine. A daemon, the agent, starts them and outlives its users."""

from powerflow.engine.local.client import LocalEngine

__all__ = ["LocalEngine"]
