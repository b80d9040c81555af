"""Run ranks as processes of this machine. A daemon (the agent) starts them and continues when its users end."""

from powerflow.engine.local.client import LocalEngine

__all__ = ["LocalEngine"]
