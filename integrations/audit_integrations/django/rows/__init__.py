"""Rows of declared models: ``AUDIT = {"MODELS": ["shop.Customer"]}`` puts on record who reads and changes which ones.

At the one place where Django's ORM runs every statement, sync and async: the compilers of `django.db.models.sql`.
"""

from __future__ import annotations

from audit_integrations.django.rows.declared import connect, problems, unsure

__all__ = ["connect", "problems", "unsure"]
