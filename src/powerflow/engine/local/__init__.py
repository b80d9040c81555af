"""Embedded engine: ranks are processes of this machine, started by an agent that outlives its users."""

from powerflow.engine.local.client import LocalEngine

__all__ = ["LocalEngine"]
