"""Body one: an event-driven simulator with its own truth, metrics, comparison and lower bound."""
