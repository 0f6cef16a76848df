"""What it costs to record who reads and changes rows: SQLAlchemy's and Django's ORM with SQLite in memory, CPU time."""

import contextlib
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from audit_middleware import config
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.pipeline import Pipeline
from benchmarks.lines import KEYS
from benchmarks.table import added, interleave, show

ROUNDS, CALLS, MANY = 15, 200, 1000


def main():
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        settings = config.load(keys=KEYS, spool_dir=Path(folder) / "spool", service="orders")
        pipeline = Pipeline(settings, "orders")
        exchange = Exchange("orders", "bench", "GET", "/customers", 0)
        exchange.gate, exchange.user = pipeline, "alice"
        token = enter(exchange)
        try:
            rows = [*measured("SQLAlchemy", *sqlalchemy()), *measured("Django", *django(pipeline))]
        finally:
            leave(token)
            pipeline.close()
    show(
        "One statement of an ORM",
        f"In a request of somebody who is known, SQLite in memory; CPU time, {ROUNDS} interleaved rounds of {CALLS} calls ({MANY} rows: a tenth of that); "
        "added = median of the differences within a round.",
        ("ORM", "what", "nothing declared, us", "declared, added us", "another model is declared, added us"),
        rows,
    )


def measured(name, calls, declaring):
    """Yield a row of the table for each of ``calls``; ``declaring`` makes a context in which models are declared."""
    for what, call in calls.items():
        count = CALLS // 10 if "rows" in what else CALLS
        variants = {which: partial(timed, call, count, declare) for which, declare in declaring.items()}
        interleave(variants, 2)
        figures = interleave(variants, ROUNDS)
        plus = added(figures, "nothing")
        bare = statistics.median(figures["nothing"])
        yield name, what, f"{bare:.0f}", f"{plus['it']:+.0f}", f"{plus['another']:+.0f}"


def timed(call, count, declare):
    with declare():
        call()
        began = time.process_time()
        for _ in range(count):
            call()
        return (time.process_time() - began) / count * 1e6


def sqlalchemy():
    from sqlalchemy import create_engine, insert, select
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
    from sqlalchemy.pool import StaticPool

    from audit_integrations.sqlalchemy import audit_models

    class Base(DeclarativeBase):
        pass

    class Customer(Base):
        __tablename__ = "customer"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]

    class Payment(Base):
        __tablename__ = "payment"
        id: Mapped[int] = mapped_column(primary_key=True)

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Customer), [{"email": f"{number}@example.com"} for number in range(MANY)])

    def read(statement):
        with Session(engine) as session:
            return session.execute(statement).all()

    @contextlib.contextmanager
    def declared(model):
        undo = audit_models(model)
        yield
        undo()

    calls = {
        "select of one row": partial(read, select(Customer.email, Customer.id).where(Customer.id == 7)),
        f"select of {MANY} rows": partial(read, select(Customer.email, Customer.id)),
    }
    return calls, {
        "nothing": contextlib.nullcontext,
        "it": partial(declared, Customer),
        "another": partial(declared, Payment),
    }


def django(pipeline):
    from django.apps import apps
    from django.conf import settings
    from django.test import override_settings

    settings.configure(
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "tests.integrations.django_project.shop",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    apps.populate(settings.INSTALLED_APPS)
    from django.db import connection

    from audit_integrations.django import rows

    rows.connect()
    customers = apps.get_model("shop", "Customer")
    with connection.schema_editor() as editor:
        editor.create_model(customers)
    customers.objects.bulk_create(customers(id=number) for number in range(1, MANY + 1))
    one = customers.objects.get(id=7)

    def declared(*models):
        return override_settings(AUDIT={"PIPELINE": pipeline, "MODELS": models})

    calls = {
        "get()": lambda: customers.objects.get(id=7),
        "save()": one.save,
        f"list of {MANY} rows": lambda: list(customers.objects.all()),
    }
    return calls, {
        "nothing": declared,
        "it": partial(declared, "shop.Customer"),
        "another": partial(declared, "shop.Payment"),
    }
