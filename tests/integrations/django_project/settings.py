"""Settings of the test project."""

import json
import os
import tempfile

SECRET_KEY = "not secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.integrations.django_project.urls"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "hijack",
    "rest_framework",
    "rest_framework.authtoken",
    "audit_integrations.django",
    "tests.integrations.django_project.shop",
]
MIDDLEWARE = [
    "audit_integrations.django.AuditMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(tempfile.gettempdir(), f"audit-ready-tests-{os.getpid()}.sqlite"),
    }
}
if "TEST_DATABASE" in os.environ:  # a PostgreSQL
    DATABASES["default"] = json.loads(os.environ["TEST_DATABASE"])
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast; guards nothing here
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
