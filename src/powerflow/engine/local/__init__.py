"""Run ranks as processes of this machine. A daemon (the fork server) starts them and continues when its users end."""

from powerflow.engine.local.client import LocalEngine

__all__ = ["LocalEngine"]
