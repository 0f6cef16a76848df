import pytest

from audit_middleware.collector.collector import Collector
from tests.collector.kit import settings_for


@pytest.fixture
def settings(tmp_path):
    return settings_for(tmp_path)


@pytest.fixture
def collector(settings):
    with Collector(settings) as opened:
        yield opened
