"""An event-driven simulator with true costs of its own, metrics, comparison of policies and a lower bound."""
