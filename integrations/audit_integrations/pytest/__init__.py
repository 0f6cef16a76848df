"""pytest: the ``audit_log`` fixture and the coverage gate."""
