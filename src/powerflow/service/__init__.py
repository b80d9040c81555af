"""Who may ask: the REST API, its tokens and roles, and metrics."""
