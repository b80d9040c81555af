"""Keep the history of the store's tables. Only alembic runs these modules."""
