"""The index in PostgreSQL, for one collector or several that share it."""
