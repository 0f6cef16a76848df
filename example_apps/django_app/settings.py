"""Settings of the back office; it needs no database."""

from __future__ import annotations

import os
import secrets

SECRET_KEY = os.environ.get("BACKOFFICE_SECRET_KEY") or secrets.token_urlsafe(32)
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "example_apps.django_app.urls"
ASGI_APPLICATION = "example_apps.django_app.asgi.application"
WSGI_APPLICATION = "example_apps.django_app.wsgi.application"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "audit_integrations.django"]
MIDDLEWARE = ["audit_integrations.django.AuditMiddleware", "example_apps.django_app.signing_in.bearer_tokens"]
AUDIT = {"SERVICE": "backoffice"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
