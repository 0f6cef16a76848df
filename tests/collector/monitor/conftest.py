import pytest

from tests.collector.monitor.kit import Stand


@pytest.fixture
def stand_of(tmp_path):
    """Makes the stand of a test; each test names the settings it needs."""
    made = []

    def make(**monitor):
        made.append(Stand(tmp_path / str(len(made)), **monitor))
        return made[-1]

    yield make
    for stand in made:
        stand.close()


@pytest.fixture
def stand(stand_of):
    return stand_of()
