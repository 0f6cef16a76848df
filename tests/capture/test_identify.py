"""An ``identify`` that does not come back costs few requests their time, and no request its answer or its record."""

import asyncio
import contextlib
import threading
import time

import pytest

from audit_middleware.capture import FAILED, Patience, identified, identified_async
from audit_middleware.capture import identify as module

pytestmark = pytest.mark.anyio
TIMEOUT_S = 0.1


@pytest.fixture(autouse=True)
def times(monkeypatch):
    monkeypatch.setattr(module, "IDENTIFY_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(module, "PAUSE_S", 1.0)
    monkeypatch.setattr(module, "CALLER", module.BoundedCaller())


class Directory:
    """What an ``identify`` asks; it can be away."""

    def __init__(self):
        self.is_back = threading.Event()
        self.asked = 0

    def __call__(self, request):
        self.asked += 1
        self.is_back.wait(10)
        return request

    async def of_the_loop(self, request):
        self.asked += 1
        while not self.is_back.is_set():  # noqa: ASYNC110 - it is set by other threads
            await asyncio.sleep(0.01)
        return request


@pytest.fixture
def directory():
    found = Directory()
    yield found
    found.is_back.set()


@pytest.fixture(params=["sync", "async", "coroutine"])
def ask(request, directory):
    """Ask on behalf of one request, in each of the ways there are."""

    async def asked(who, patience):
        if request.param == "sync":
            return await asyncio.to_thread(identified, directory, who, patience)
        return await identified_async(directory if request.param == "async" else directory.of_the_loop, who, patience)

    return asked


@contextlib.contextmanager
def taking(at_least, at_most):
    began = time.monotonic()
    yield
    assert at_least <= time.monotonic() - began < at_most


async def test_after_three_in_a_row_that_were_given_up_nobody_waits_until_one_is_answered(ask, directory, caplog):
    patience = Patience()
    for _ in range(3):
        with taking(TIMEOUT_S * 0.9, 5):
            assert await ask("alice", patience) is FAILED
    with taking(0, TIMEOUT_S):
        for _ in range(20):
            assert await ask("alice", patience) is FAILED
    assert directory.asked == 3
    await asyncio.sleep(1.0)
    said = await asyncio.gather(*[ask("alice", patience) for _ in range(4)])
    assert said == [FAILED] * 4
    assert directory.asked == 4  # one of them tried
    directory.is_back.set()
    await asyncio.sleep(1.0)
    assert [await ask(who, patience) for who in ("alice", "bob")] == ["alice", "bob"]
    assert [caplog.text.count(said) for said in ("no answer within", "3 times in a row", "answers again")] == [2, 1, 1]


async def test_one_that_answers_between_leaves_all_patience(ask, directory):
    patience = Patience()
    for is_back in (False, False, True, False, False, True, False, False):
        (directory.is_back.set if is_back else directory.is_back.clear)()
        assert await ask("alice", patience) == ("alice" if is_back else FAILED)
    assert not patience.is_over


async def test_one_that_raises_at_once_is_asked_again_by_each_request(caplog):
    asked, patience = [], Patience()

    def refuses(request):
        asked.append(request)
        raise TimeoutError("of the directory itself")

    for _ in range(5):
        assert identified(refuses, "alice", patience) is FAILED
        assert await identified_async(refuses, "alice", patience) is FAILED
    assert len(asked) == 10
    assert caplog.text.count("identify failed") == 10


async def test_the_ninth_is_unknown_at_once_while_eight_that_were_given_up_hold_every_thread(directory):
    given_up = [asyncio.to_thread(identified, directory, "alice", Patience()) for _ in range(module.MAX_THREADS)]
    assert await asyncio.gather(*given_up) == [FAILED] * module.MAX_THREADS
    patience = Patience()
    with taking(0, TIMEOUT_S):
        assert identified(directory, "alice", patience) is FAILED
        assert await identified_async(directory, "alice", patience) is FAILED
    assert directory.asked == module.MAX_THREADS
    directory.is_back.set()
    for _ in range(100):
        if identified(directory, "alice", Patience()) == "alice":
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the threads are not used again")


async def test_what_waited_for_a_thread_in_vain_never_runs(directory):
    """Nine at once: the ninth is given up in the queue."""
    asking = [asyncio.to_thread(identified, directory, "alice", Patience()) for _ in range(module.MAX_THREADS + 1)]
    assert await asyncio.gather(*asking) == [FAILED] * (module.MAX_THREADS + 1)
    directory.is_back.set()
    await asyncio.sleep(TIMEOUT_S)
    assert directory.asked == module.MAX_THREADS
