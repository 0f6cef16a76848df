"""Who read and changed which rows of declared models, with real SQLite databases, sync and async."""

import json
import logging
import threading
import uuid

import pytest
from sqlalchemy import (
    ForeignKey,
    LargeBinary,
    String,
    Table,
    TypeDecorator,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, joinedload, mapped_column, relationship

from audit_integrations.sqlalchemy import audit_models, declared_models
from audit_middleware import AuditMiddleware, ConfigurationError
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.errors import RequestRefused
from audit_middleware.inventory_record import reached
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import parse_frame
from audit_middleware.testing import FaultyFiles
from tests.capture import kit
from tests.capture.kit import make_pipeline, records
from tests.shipping.kit import wait_until


class Base(DeclarativeBase):
    pass


class Unspeakable(str):
    __slots__ = ()

    def __str__(self):
        raise LookupError("secret")


class Odd(TypeDecorator):
    impl, cache_ok = String, True

    def process_result_value(self, value, dialect):
        return Unspeakable(value)


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(default="secret@example.com")
    payments: Mapped[list["Payment"]] = relationship(back_populates="customer", cascade="all, delete-orphan")


class Payment(Base):
    __tablename__ = "payment"
    number: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="payments")


class Line(Base):
    __tablename__ = "line"
    order: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="secret")


class Blob(Base):
    __tablename__ = "blob"
    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)


class Strange(Base):
    __tablename__ = "strange"
    key: Mapped[str] = mapped_column(Odd, primary_key=True)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 - SQLAlchemy's way


class Manager(Person):
    __tablename__ = "manager"
    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    level: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012 - SQLAlchemy's way


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(default=1)


CUSTOMERS: Table = Customer.__table__
ALL = (Customer, Payment, Line, Blob, Strange, Person)


@pytest.fixture
def engine(tmp_path):
    made = create_engine(f"sqlite:///{tmp_path}/shop.sqlite")
    Base.metadata.create_all(made)
    with Session(made) as session:
        session.add_all(Customer(id=number) for number in (1, 2, 3))
        session.flush()
        session.add_all([Payment(number=uuid.UUID(int=7), customer_id=1), Line(order="a/b", position=1)])
        session.add_all(
            [Blob(digest=b"\x00\xff"), Strange(key="odd"), Manager(id=9, level=1, kind="manager"), Product(id=1)]
        )
        session.commit()
    yield made
    made.dispose()


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path)


@pytest.fixture
def declared():
    undo = audit_models(*ALL)
    yield
    undo()


@pytest.fixture
def request_of_alice(pipeline, declared):
    with kit.request_of_alice(pipeline) as exchange:
        yield exchange


def said(tmp_path):
    """Action, model, id, keys and defects of every event."""
    found = records(tmp_path, "event")
    return [
        (
            each["action"].removeprefix("data."), each["resource"]["type"], each["resource"]["id"],
            (each.get("details") or {}).get("keys"), each.get("defects"),
        )
        for each in found
    ]  # fmt: skip


ONE = [("read", "Customer", "1", None, None)]
THREE = [("read", "Customer", "3 rows", ["1", "2", "3"], None)]
UNKNOWN_THREE = [("read", "Customer", "3 rows", None, ["details.keys"])]
UNKNOWN = [("read", "Customer", "unknown", None, ["resource.id"])]
PAYMENT = ("read", "Payment", str(uuid.UUID(int=7)), None, None)
C2 = aliased(Customer)


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (lambda s: s.get(Customer, 1), ONE),
        (lambda s: s.get(Customer, 99), []),
        (lambda s: s.scalars(select(Customer)).all(), THREE),
        (lambda s: s.execute(select(Customer).where(Customer.id == 1)).scalar_one(), ONE),
        (lambda s: s.query(Customer).all(), THREE),
        (lambda s: s.execute(select(CUSTOMERS)).all(), THREE),
        (lambda s: s.execute(select(CUSTOMERS.c.id, CUSTOMERS.c.email)).all(), THREE),
        (lambda s: s.execute(select(CUSTOMERS)).first(), ONE),
        (lambda s: s.execute(select(CUSTOMERS)).fetchmany(3), THREE),
        (lambda s: s.execute(select(CUSTOMERS)).mappings().all(), THREE),
        (lambda s: s.scalars(select(Customer.email)).all(), UNKNOWN_THREE),
        (lambda s: s.scalar(select(func.count(Customer.id))), UNKNOWN),
        (lambda s: s.scalar(select(func.max(Customer.email))), UNKNOWN),
        (lambda s: s.scalar(select(func.count()).select_from(Customer)), UNKNOWN),
        (lambda s: s.scalar(select(exists().where(Customer.email == "x"))), UNKNOWN),
        (lambda s: s.execute(select(C2)).all(), THREE),
        (lambda s: s.scalars(select(Product).where(Product.customer_id.in_(select(Customer.id)))).all(), UNKNOWN),
        (lambda s: s.scalars(select(Product).join(Customer, Customer.id == Product.customer_id)).all(), UNKNOWN),
        (lambda s: s.execute(select(Customer).union_all(select(Customer))).all(), [("read", "Customer", "3 rows", ["1", "2", "3"], None)]),
        (lambda s: s.scalars(select(Customer).options(joinedload(Customer.payments)).limit(1)).unique().all(), [*ONE, PAYMENT]),
        (lambda s: s.scalars(select(Payment)).one().customer, [PAYMENT, *ONE]),
        (lambda s: s.get(Customer, 1).payments, [*ONE, PAYMENT]),
        (lambda s: s.scalars(select(Customer).from_statement(text("SELECT * FROM customer"))).all(), None),
        (lambda s: s.get(Line, ("a/b", 1)), [("read", "Line", "a%2Fb/1", None, None)]),
        (lambda s: s.scalars(select(Blob)).all(), [("read", "Blob", "00ff", None, None)]),
        (lambda s: s.scalars(select(Person)).all(), [("read", "Person", "9", None, None)]),
        (lambda s: s.scalars(select(Manager)).all(), [("read", "Person", "9", None, None)]),
        (lambda s: s.scalars(select(Product)).all(), []),
    ],
)  # fmt: skip
def test_every_way_of_reading_is_on_record_once(engine, request_of_alice, tmp_path, reads, expected):
    with Session(engine) as session:
        reads(session)
    found = said(tmp_path)
    if expected is None:  # the statement is text: its columns are known by name alone
        assert [(each[0], each[1]) for each in found] == [("read", "Customer")]
    else:
        assert found == expected
    assert "secret" not in json.dumps(records(tmp_path, "event"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (lambda s: s.add(Customer(email="secret")), [("create", "Customer", "4", None, None)]),
        (lambda s: s.add_all([Customer(), Customer()]), [("create", "Customer", "2 rows", ["4", "5"], None)]),
        (lambda s: s.execute(insert(Customer), [{"id": 8}, {"id": 9}]), [("create", "Customer", "2 rows", ["8", "9"], None)]),
        (lambda s: s.execute(insert(CUSTOMERS), [{"email": "x"}, {"email": "y"}]), [("create", "Customer", "2 rows", None, ["details.keys"])]),
        (lambda s: s.execute(insert(CUSTOMERS).values(email="x")), [("create", "Customer", "4", None, None)]),
        (
            lambda s: s.execute(insert(Product).from_select(["customer_id"], select(Customer.id))),
            UNKNOWN,
        ),
        (lambda s: setattr(s.get(Customer, 1), "email", "secret"), [*ONE, ("update", "Customer", "1", None, None)]),
        (lambda s: s.delete(s.get(Blob, b"\x00\xff")), [("read", "Blob", "00ff", None, None), ("delete", "Blob", "00ff", None, None)]),
        (lambda s: s.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 2).values(email="x")), [("update", "Customer", "2", None, None)]),
        (lambda s: s.execute(update(CUSTOMERS).where(CUSTOMERS.c.id.in_([1, 3])).values(email="x")), [("update", "Customer", "2 rows", ["1", "3"], None)]),
        (lambda s: s.execute(update(CUSTOMERS).where(CUSTOMERS.c.id.in_([1, 99])).values(email="x")), [("update", "Customer", "1 row", None, ["details.keys"])]),
        (lambda s: s.execute(update(CUSTOMERS).values(email="x")), [("update", "Customer", "3 rows", None, ["details.keys"])]),
        (lambda s: s.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 99).values(email="x")), []),
        (lambda s: s.execute(update(CUSTOMERS).values(email="x").returning(CUSTOMERS.c.id)).all(), [("update", "Customer", "3 rows", ["1", "2", "3"], None)]),
        (lambda s: s.execute(delete(CUSTOMERS).where(CUSTOMERS.c.email != "x")), [("delete", "Customer", "3 rows", None, ["details.keys"])]),
        (lambda s: s.execute(delete(Line).where(Line.order == "a/b", Line.position == 1)), [("delete", "Line", "a%2Fb/1", None, None)]),
        (lambda s: s.execute(update(Customer).where(func.abs(Customer.id) == 1).values(email="x")), [("update", "Customer", "1", None, None)]),
        (lambda s: s.execute(update(Customer).where(func.abs(Customer.id) == 99).values(email="x")), []),
        (
            lambda s: s.execute(update(Customer).where(func.abs(Customer.id) > 0).values(email="x").returning(Customer.email)).all(),
            [("update", "Customer", "3 rows", ["1", "2", "3"], None)],
        ),
        (lambda s: s.execute(delete(Customer).where(func.abs(Customer.id) == 2)), [("delete", "Customer", "2", None, None)]),
        (lambda s: s.execute(update(Customer), [{"id": 1, "email": "x"}, {"id": 2, "email": "y"}]), [("update", "Customer", "2 rows", ["1", "2"], None)]),
    ],
)  # fmt: skip
def test_every_way_of_changing_is_on_record_with_its_keys_or_says_that_they_are_unknown(
    engine, request_of_alice, tmp_path, changes, expected
):
    with Session(engine) as session:
        changes(session)
        session.flush()
        assert said(tmp_path) == expected  # before the commit
        session.commit()
    assert said(tmp_path) == expected


def test_what_this_cannot_tell_is_on_record_as_unknown_rows_and_fails_nothing(
    engine, request_of_alice, tmp_path, monkeypatch, caplog
):
    def fail(*_):
        raise AttributeError("a later release")

    monkeypatch.setattr("audit_integrations.sqlalchemy.watching._changed", fail)
    monkeypatch.setattr("audit_integrations.sqlalchemy.watching.RecordedFetch", fail)
    with Session(engine) as session:
        assert len(session.scalars(select(Customer)).all()) == 3
        session.execute(update(CUSTOMERS).values(email="x"))
        session.rollback()
    assert said(tmp_path) == [
        ("read", "Customer", "unknown", None, ["resource.id"]),
        ("update", "Customer", "unknown", None, ["resource.id"]),
        ("update", "Customer", "unknown", None, ["resource.id"]),
    ]
    assert records(tmp_path, "event")[-1]["reason"] == "rolled back"
    assert "is not known" in caplog.text


def test_a_record_says_who_in_which_request_and_is_what_the_inventory_expects(engine, request_of_alice, tmp_path):
    with Session(engine) as session:
        session.get(Customer, 1)
    (record,) = records(tmp_path, "event")
    assert (record["principal"]["id"], record["source"]["ip"]) == ("alice", "203.0.113.7")
    assert record["trace"]["request_id"] == request_of_alice.request_id
    segments = (tmp_path / "spool" / "streams").glob("*/seg-*")
    (line,) = (line for each in segments for line in each.read_bytes().splitlines() if b"data.read" in line)
    assert reached("event", parse_rec(line, parse_frame(line))) == ("model", "read", "Customer")


def test_what_is_rolled_back_is_said_to_be(engine, request_of_alice, tmp_path):
    with Session(engine) as session:
        session.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 1).values(email="x"))
        nested = session.begin_nested()
        session.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 2).values(email="x"))
        nested.rollback()
        inner = [(each["resource"]["id"], each["outcome"], each.get("reason")) for each in records(tmp_path, "event")]
        session.rollback()
        session.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 3).values(email="x"))
        session.commit()
        session.rollback()
    every = [(each["resource"]["id"], each["outcome"], each.get("reason")) for each in records(tmp_path, "event")]
    assert inner == [("1", "success", None), ("2", "success", None), ("2", "failure", "rolled back")]
    assert every == [*inner, ("1", "failure", "rolled back"), ("3", "success", None)]


def test_closing_without_commit_is_a_rollback_and_autocommit_is_none(engine, request_of_alice, tmp_path):
    change = update(CUSTOMERS).where(CUSTOMERS.c.id == 1).values(email="x")
    with engine.connect() as connection:
        connection.execute(change)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(change)
        connection.rollback()
    assert [each["outcome"] for each in records(tmp_path, "event")] == ["success", "failure", "success"]


def test_5000_rows_are_a_few_records_that_name_every_key(engine, request_of_alice, tmp_path):
    with Session(engine) as session:
        session.add_all(Customer() for _ in range(5000))
        session.commit()
        session.scalars(select(Customer)).all()
        before = len(said(tmp_path))
        taken = sum(1 for _ in session.connection().execute(select(CUSTOMERS)))
    keys = [key for each in said(tmp_path)[:before] if each[0] == "read" for key in each[3]]
    assert keys == [str(number) for number in range(1, 5004)]
    assert taken == 5003
    assert before < 30
    assert len(said(tmp_path)) - before < 20


def test_what_is_streamed_is_on_record_as_it_is_taken(engine, request_of_alice, tmp_path):
    with Session(engine) as session:
        rows = iter(session.scalars(select(Customer).execution_options(yield_per=2)))
        next(rows)
        assert said(tmp_path) == [("read", "Customer", "2 rows", ["1", "2"], None)]
        assert len(list(rows)) == 2
    assert said(tmp_path)[1:] == [("read", "Customer", "3", None, None)]


def test_taking_one_by_one_gives_every_row_once_and_in_order(engine, request_of_alice):
    with engine.connect() as connection:
        result = connection.execute(select(CUSTOMERS.c.id))
        assert [result.fetchone()[0], [row[0] for row in result.fetchmany(1)], [row[0] for row in result]] == [
            1,
            [2],
            [3],
        ]
        assert result.fetchone() is None


def test_keys_that_cannot_be_said_are_defects_and_no_errors(engine, request_of_alice, tmp_path):
    with Session(engine) as session:
        session.scalars(select(Strange)).all()
    ((action, model, id_, _, defects),) = said(tmp_path)
    assert (action, model, id_) == ("read", "Strange", "unknown")
    assert defects == ["details.keys"]


def test_a_journal_that_is_full_denies_by_policy_before_rows_are_handed_over(engine, declared, tmp_path):
    files = FaultyFiles()
    pipeline = make_pipeline(tmp_path, files=files, on_failure="deny")
    exchange = Exchange(pipeline.service, "r", "GET", "/", 0)
    exchange.gate = pipeline
    token = enter(exchange)
    files.room = 0
    try:
        with Session(engine) as session, pytest.raises(RequestRefused):
            session.scalars(select(Customer)).all()
        assert exchange.is_refused
        with Session(engine) as session, pytest.raises(RequestRefused):
            session.execute(update(CUSTOMERS).where(CUSTOMERS.c.id == 1).values(email="changed"))
        exchange.on_failure = "allow"
        with Session(engine) as session:
            assert session.get(Customer, 1).email == "secret@example.com"
    finally:
        leave(token)


def test_without_a_request_it_is_the_service_itself(engine, pipeline, declared, tmp_path):
    with Session(engine) as session:
        session.get(Customer, 1)
    (record,) = records(tmp_path, "event")
    assert record["principal"] == {"id": "orders", "type": "service", "auth": "none"}


def test_a_fault_of_ours_does_not_fail_the_statement(engine, request_of_alice, monkeypatch, caplog):
    monkeypatch.setattr("audit_integrations.sqlalchemy.watching._note", lambda *_: 1 / 0)
    with Session(engine) as session, caplog.at_level(logging.ERROR):
        assert session.get(Customer, 1) is not None
    assert "is not known" in caplog.text


@pytest.mark.anyio
async def test_async_sessions_are_on_record_for_the_request_at_hand(tmp_path, engine, request_of_alice):
    asynchronous = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.sqlite")
    async with AsyncSession(asynchronous) as session:
        await session.get(Customer, 1)
        async for _ in await session.stream_scalars(select(Customer).where(Customer.id == 2)):
            pass
        session.add(Customer(id=50))
        await session.commit()
    await asynchronous.dispose()
    assert [each[:3] for each in said(tmp_path)] == [
        ("read", "Customer", "1"), ("read", "Customer", "2"), ("create", "Customer", "50"),
    ]  # fmt: skip
    assert {each["principal"]["id"] for each in records(tmp_path, "event")} == {"alice"}


@pytest.mark.anyio
async def test_who_is_signed_in_by_a_middleware_inside_is_known_while_the_request_runs(tmp_path, engine, declared):
    async def app(scope, receive, send):
        scope["user"] = "carol"
        with Session(engine) as session:
            session.get(Customer, 1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def nothing(*_):
        return {"type": "http.request", "body": b""}

    audited = AuditMiddleware(app, pipeline=make_pipeline(tmp_path))
    await audited({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, nothing, nothing)
    (record,) = records(tmp_path, "event")
    assert record["principal"]["id"] == "carol"
    assert record["trace"]["request_id"] == records(tmp_path)[0]["trace"]["request_id"]


def test_sessions_in_threads_are_on_record_for_their_own_requests(engine, pipeline, declared, tmp_path):
    def read(name, key):
        exchange = Exchange(pipeline.service, name, "GET", "/", 0)
        exchange.gate, exchange.user = pipeline, name
        token = enter(exchange)
        for _ in range(20):
            with Session(engine) as session:
                session.get(Customer, key)
        leave(token)

    threads = [threading.Thread(target=read, args=each) for each in (("ann", 1), ("ben", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(each["principal"]["id"], each["resource"]["id"]) for each in records(tmp_path, "event")]
    assert sorted(found) == [("ann", "1")] * 20 + [("ben", "2")] * 20


def test_what_is_declared_twice_is_on_record_once_and_what_is_undone_not_at_all(engine, pipeline, tmp_path):
    undo, again = audit_models(Customer), audit_models(Customer, CUSTOMERS)
    assert declared_models() == ["Customer"]
    with Session(engine) as session:
        session.get(Customer, 1)
    again()
    undo()
    with Session(engine) as session:
        session.get(Customer, 1)
    assert (len(said(tmp_path)), declared_models()) == (1, [])


@pytest.mark.parametrize("wrong", [(), ("customer",), (str,), (Customer(),), (None,), (Base,)])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="audit_models"):
        audit_models(*wrong)
    assert declared_models() == []


def test_an_application_that_listens_itself_is_not_disturbed(engine, request_of_alice):
    heard = []
    event.listen(engine, "after_execute", lambda *_: heard.append(1))
    with engine.connect() as connection:
        assert connection.execute(select(CUSTOMERS.c.id)).scalars().all() == [1, 2, 3]
    assert heard == [1]


def test_what_is_declared_is_in_the_inventory_of_every_pipeline_also_later(tmp_path):
    def said(folder):
        found = [record for record in records(folder, "coverage") if record["component"] == "sqlalchemy"]
        return [[(each["kind"], each["method"], each["route"]) for each in record["entry_points"]] for record in found]

    early, late = make_pipeline(tmp_path / "early"), make_pipeline(tmp_path / "late")
    first = audit_models(Customer)
    early.start()
    wait_until(lambda: said(tmp_path / "early"))
    second = audit_models(Payment)
    try:
        wait_until(lambda: len(said(tmp_path / "early")) == 2)
        late.start()
        wait_until(lambda: said(tmp_path / "late"))
        both = [("model", "*", "Customer"), ("model", "*", "Payment")]
        assert said(tmp_path / "early") == [both[:1], both]
        assert said(tmp_path / "late") == [both]
    finally:
        second()
        first()
        early.close()
        late.close()
