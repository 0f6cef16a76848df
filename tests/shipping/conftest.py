import socket

import pytest

from tests.shipping.kit import Desk, HTTPCollector


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def served():
    """A collector behind a real HTTP server."""
    collector = HTTPCollector()
    yield collector
    collector.close()


@pytest.fixture
def black_hole():
    """The URL of something that listens and never answers."""
    listening = socket.create_server(("127.0.0.1", 0))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
