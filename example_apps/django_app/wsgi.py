"""The back office as a WSGI application.

Run it from the root of the checkout::

    .venv/bin/gunicorn --workers 2 example_apps.django_app.wsgi:application

Records go to ./audit-spool; set AUDIT_COLLECTOR_URL to have them delivered.
"""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_apps.django_app.settings")
application = get_wsgi_application()
