"""The REST API: routes, tokens, roles and metrics."""
