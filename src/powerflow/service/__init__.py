"""Serve the REST API: routes, tokens, roles and metrics."""
