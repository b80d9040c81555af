"""History of the tables of the store; alembic runs what is here, nothing else imports it."""
