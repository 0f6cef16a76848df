"""Django is set up once for a process, and its database made once."""

import os
from pathlib import Path

import pytest

from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline


@pytest.fixture(scope="session")
def django_project(tmp_path_factory):
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integrations.django_project.settings"
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    database = Path(settings.DATABASES["default"]["NAME"])
    database.unlink(missing_ok=True)
    call_command("migrate", "auth", verbosity=0)  # what apps without migrations refer to
    call_command("migrate", verbosity=0, run_syncdb=True)
    from django.contrib.auth.models import User
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path_factory.mktemp("project"))}):
        User.objects.create_user("alice", password="alice")
        User.objects.create_user("bob", password="bob")
        User.objects.create_superuser("root", password="root")
    yield
    connections.close_all()
    database.unlink(missing_ok=True)


@pytest.fixture
def audit(tmp_path, django_project):
    """Make a pipeline whose disk can be full, and that Django uses too."""
    from django.test import override_settings

    def make(**settings):
        disk = FaultyFiles()
        pipeline = make_pipeline(tmp_path, files=disk, spool_min_free=0, **settings)
        with_it.wrapped = {"AUDIT": {"PIPELINE": pipeline}}
        with_it.options = with_it.wrapped
        with_it.enable()
        return pipeline, disk

    with_it = override_settings()
    yield make
    with_it.disable()
