"""Who waits for the disk or the collector: threads and tasks, also those that gave up."""

import asyncio
import threading
import time

import pytest

from audit_middleware.journal.watermark import Watermark


def test_a_thread_that_waits_in_vain_is_told_so():
    watermark = Watermark()
    watermark.advance(3)
    assert watermark.wait(3, 0)
    assert not watermark.wait(4, 0.01)
    assert watermark._waiters == []


def test_asyncio_tasks_are_released_from_another_thread():
    watermark = Watermark()

    async def main():
        tasks = [asyncio.create_task(watermark.wait_async(seq, 5)) for seq in range(50)]
        await asyncio.sleep(0)
        threading.Thread(target=watermark.advance, args=(48,)).start()
        done = await asyncio.gather(*tasks[:49])
        tasks[49].cancel()
        return done

    assert asyncio.run(main()) == [True] * 49
    assert watermark._waiters == []


def test_a_task_that_waits_in_vain_is_told_so():
    watermark = Watermark()
    began = time.monotonic()
    assert asyncio.run(watermark.wait_async(0, 0.02)) is False
    assert time.monotonic() - began < 2


def test_a_cancelled_task_leaves_nobody_behind_to_be_woken():
    watermark = Watermark()

    async def main():
        task = asyncio.create_task(watermark.wait_async(7, 60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert watermark._waiters == []


def test_a_loop_that_was_closed_while_it_waited_keeps_nobody_else_waiting():
    watermark = Watermark()
    loop = asyncio.new_event_loop()
    task = loop.create_task(watermark.wait_async(0, 60))
    loop.run_until_complete(asyncio.sleep(0))
    released = threading.Event()
    other = threading.Thread(target=lambda: watermark.wait(0, 5) and released.set())
    other.start()
    while len(watermark._waiters) < 2:
        time.sleep(0.001)
    loop.close()
    watermark.advance(0)
    other.join(5)
    assert released.is_set()
    task._log_destroy_pending = False
    task.get_coro().close()
