"""The back office as an ASGI application.

Run it from the root of the checkout::

    .venv/bin/uvicorn --no-proxy-headers example_apps.django_app.asgi:application

Records go to ./audit-spool; set AUDIT_COLLECTOR_URL to have them delivered.
"""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_apps.django_app.settings")
application = get_asgi_application()
