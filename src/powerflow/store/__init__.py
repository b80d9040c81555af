"""Keep the durable state of a live cluster in SQLite or PostgreSQL."""
