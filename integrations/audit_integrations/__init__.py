"""Integrations of audit-ready, one room per framework; each uses only the public API of the core."""
