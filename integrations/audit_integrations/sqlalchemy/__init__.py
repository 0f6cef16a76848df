"""SQLAlchemy 2: ``audit_models(Customer, payments)`` puts on record who reads and changes rows of these.

For the ORM and for Core, sync and async, by the statement: every SQL expression that SQLAlchemy runs is looked at
where it is executed. What is SQL text already (``text()``, ``exec_driver_sql``) is not seen.
"""

from __future__ import annotations

try:
    import sqlalchemy  # noqa: F401 - only whether it is there
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "SQLAlchemy is missing: pip install 'audit-ready[sqlalchemy]'", name=error.name
    ) from error

from audit_integrations.sqlalchemy.declared import audit_models, declared_models

__all__ = ["audit_models", "declared_models"]
