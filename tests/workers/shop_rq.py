"""The jobs that RQ's workers of these tests run."""

import os
import time
from pathlib import Path

import rq


def mark(name):
    temporary = Path(os.environ["MARKS"]) / f".{name}"
    temporary.write_text(str(os.getpid()))
    temporary.rename(temporary.with_name(name))


def add(number):
    return number


def fail():
    raise LookupError("secret")


def hang(name):
    mark(name)
    time.sleep(120)


def quick(name):
    mark(name)


def again(most=3):
    job = rq.get_current_job()
    return rq.Retry(max=most) if not job.number_of_retries else None
