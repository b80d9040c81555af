"""The pages of the dashboard: from records of a live cluster to HTML. Who may see them is the service's question."""
