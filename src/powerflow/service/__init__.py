"""Serve the REST API: routes, access tokens, roles and metrics."""
