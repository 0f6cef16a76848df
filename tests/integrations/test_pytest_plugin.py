"""The pytest plugin, in runs of pytest of its own: the fixture, its failures, and the coverage gate."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

APP = """
    from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
    from starlette.staticfiles import StaticFiles
    from audit_middleware import AuditMiddleware, audited, current_audit

    app = FastAPI(title="shop", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(AuditMiddleware)
    router = APIRouter(prefix="/v1")
    inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @router.post("/orders/{order_id}/refund")
    @audited("orders.refund", resource="order:{order_id}")
    def refund(order_id: int):
        current_audit().principal = "alice"
        return {}

    @router.get("/orders/{order_id}")
    async def read(order_id: int):
        return {}

    @inner.get("/items/{item}")
    def item(item: str):
        return {}

    @app.get("/health")
    @audited(exempt="load balancers ask twice a second", until="2999-01-01")
    def health():
        return {}

    @app.websocket("/live")
    async def live(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()

    app.include_router(router, prefix="/api")
    app.mount("/shop/{tenant}", inner)
    app.mount("/static", StaticFiles(directory="."))
"""
TESTS = """
    import pytest
    from starlette.testclient import TestClient
    from shop import app

    client = TestClient(app)

    def test_refund(audit_log):
        client.post("/api/v1/orders/7/refund")
        (record,) = audit_log.assert_recorded(
            action="orders.refund", principal="alice", outcome="success", resource="order:7", status=200, times=1
        )
        assert record.service == "shop"
        assert len(audit_log.attempts) == 1
        audit_log.assert_no_defects()

    def test_nothing(audit_log):
        audit_log.assert_nothing_recorded()

    def test_the_rest():
        client.get("/api/v1/orders/7")
        client.get("/shop/acme/items/tea")
        client.get("/static/shop.py")
        client.get("/health")
        with client.websocket_connect("/live"):
            pass
"""
EVERYTHING = {
    "POST /api/v1/orders/{order_id}/refund", "GET /api/v1/orders/{order_id}", "GET /shop/{tenant}/items/{item}",
    "GET /health", "GET /live", "* /static/*",
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Write files and run pytest on them, in a process of its own; the plugin is found by its entry point."""

    def run(*arguments, app=APP, tests=TESTS):
        (tmp_path / "shop.py").write_text(textwrap.dedent(app))
        (tmp_path / "test_shop.py").write_text(textwrap.dedent(tests))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "PYTEST"))}
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    return run


def coverage(tmp_path):
    report = json.loads((tmp_path / "audit-coverage.json").read_text())
    return report, {f"{each['method']} {each['route']}": each["state"] for each in report["entry_points"]}


def test_records_of_a_test_are_sealed_verified_and_asserted(run, tmp_path):
    ran = run()
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout
    assert not (tmp_path / "audit-coverage.json").exists()


def test_a_failing_assertion_shows_the_closest_record_and_all_others(run):
    ran = run(
        tests="""
        from starlette.testclient import TestClient
        from shop import app

        def test_refund(audit_log):
            TestClient(app).get("/api/v1/orders/7")
            TestClient(app).post("/api/v1/orders/7/refund")
            audit_log.assert_recorded(action="orders.refund", principal="bob")

        def test_nothing_at_all(audit_log):
            audit_log.assert_recorded(action="orders.refund")

        def test_not_nothing(audit_log):
            TestClient(app).get("/api/v1/orders/7")
            audit_log.assert_nothing_recorded()
        """
    )
    assert ran.returncode == 1
    assert "    action: 'orders.refund'" in ran.stdout
    assert "  - principal: 'bob'" in ran.stdout
    assert "  + principal: 'alice'" in ran.stdout
    assert "orders.refund by alice on order:7: success (200)" in ran.stdout
    assert "nothing is on record at all" in ran.stdout
    assert "expected nothing on record" in ran.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_gate_passes_when_every_entry_point_is_covered(run, tmp_path, workers):
    ran = run("--audit-coverage=shop:app", "--audit-fail-under=100", *workers)
    report, states = coverage(tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert set(states) == EVERYTHING
    assert {place for place, state in states.items() if state == "exempt"} == {"GET /health"}
    assert set(states.values()) == {"audited", "exempt"}
    assert report["percent"] == 100.0
    assert report["passed"] is True
    assert "exempt: load balancers ask twice a second (until 2999-01-01)" in ran.stdout
    assert "6 entry points: 5 audited, 1 exempt: 100.0 %, needed 100 %: passed" in ran.stdout


def test_the_gate_fails_below_its_threshold_and_names_what_nobody_saw(run, tmp_path):
    ran = run("--audit-coverage=shop:app", "--audit-fail-under=100", "-k", "refund")
    _, states = coverage(tmp_path)
    assert ran.returncode == 1
    assert states["GET /live"] == "unseen"
    assert "WEBSOCKET /live" in ran.stdout
    assert "FAILED" in ran.stdout
    assert run("--audit-coverage=shop:app", "--audit-fail-under=30", "-k", "refund").returncode == 0
    assert run("--audit-coverage=shop:app", "-k", "refund").returncode == 0


def test_defects_are_named_and_do_not_count(run, tmp_path):
    ran = run(
        "--audit-coverage=shop:app", "--audit-fail-under=100",
        tests=TESTS + """
    def test_forgotten_principal():
        client.get("/api/v1/orders/7", headers={"Authorization": "Bearer x"})
    """,
    )  # fmt: skip
    assert ran.returncode == 1
    assert coverage(tmp_path)[1]["GET /api/v1/orders/{order_id}"] == "defects"
    assert "audited with defects: principal" in ran.stdout


def test_an_exemption_that_has_expired_fails_whatever_the_threshold(run, tmp_path):
    ran = run("--audit-coverage=shop:app", app=APP.replace("2999-01-01", "2020-01-01"))
    assert ran.returncode == 1
    assert coverage(tmp_path)[1]["GET /health"] == "expired"
    assert "exemption expired: load balancers" in ran.stdout
    assert "needed no exemption that has expired: FAILED" in ran.stdout


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("shop", "is not of the form package.module:app"),
        ("nothing:app", "cannot be imported"),
        ("shop:no", "no"),
        ("shop:FastAPI.get", "named with get()"),
    ],
)
def test_a_target_that_is_no_application_fails_with_the_reason(run, target, says):
    ran = run(f"--audit-coverage={target}")
    assert ran.returncode == 1
    assert "audit coverage could not be found out" in ran.stdout
    assert says in ran.stdout


def test_a_threshold_without_an_application_is_refused(run):
    ran = run("--audit-fail-under=100")
    assert ran.returncode == 4
    assert "--audit-fail-under needs --audit-coverage" in ran.stderr


@pytest.mark.parametrize("threshold", ["101", "-1", "nan", "inf", "all", ""])
def test_a_threshold_that_is_no_percentage_is_refused(run, threshold):
    ran = run("--audit-coverage=shop:app", f"--audit-fail-under={threshold}")
    assert ran.returncode == 4
    assert f"{threshold!r} is no percentage from 0 to 100" in ran.stderr


def test_unused_it_imports_nothing_of_the_audit_trail(run):
    ran = run(
        tests="""
        import sys

        def test_imports():
            ours = {name for name in sys.modules if name.startswith(("audit_middleware", "audit_integrations"))}
            assert ours <= {"audit_integrations", "audit_integrations.pytest", "audit_integrations.pytest.plugin"}
        """
    )
    assert ran.returncode == 0, ran.stdout


def test_flask_and_django_are_walked_too(run, tmp_path):
    tests = """
        import pytest
        from example_apps.flask_app.main import app as flask_app
        from example_apps.django_app.wsgi import application
        from django.test import Client

        ALICE, ROOT = ({"Authorization": f"Bearer {name}-token"} for name in ("alice", "root"))

        def test_flask():
            client = flask_app.test_client()
            client.get("/invoices/7", headers=ALICE)
            client.post("/invoices/7/pay", headers=ROOT)
            assert client.get("/export", headers=ALICE).data

        def test_django():
            client = Client(raise_request_exception=False)
            client.get("/customers/7/", headers=ALICE)
            client.get("/broken")

        @pytest.fixture(autouse=True)
        def own(monkeypatch, tmp_path):
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    """
    targets = ["example_apps.flask_app.main:app", "example_apps.django_app.wsgi:application"]
    ran = run(*(f"--audit-coverage={target}" for target in targets), tests=tests)
    _, states = coverage(tmp_path)
    assert ran.returncode == 0, ran.stdout
    assert states["GET /invoices/<int:number>"] == states["POST /invoices/<int:number>/pay"] == "audited"
    assert states["GET /static/<path:filename>"] == "unseen"
    assert states["* /customers/<int:pk>/"] == "audited"
    assert states["POST /customers/<int:pk>/lock"] == "unseen"


def test_records_that_break_the_rules_file_fail_the_test_that_made_them(run, tmp_path):
    (tmp_path / "audit-rules.toml").write_text('[[rules]]\nmatch = "orders.refund"\nrequire = ["tenant"]\n')
    (tmp_path / "wrong.toml").write_text("rules = 3\n")
    ran = run("--audit-rules=audit-rules.toml")
    assert ran.returncode == 1
    assert "orders.refund by alice on order:7: success (200): rules.tenant" in ran.stdout
    assert "1 failed, 2 passed, 1 error" in ran.stdout  # what it asserts itself about defects, and the fixture
    wrong = run("--audit-rules=wrong.toml")
    assert (wrong.returncode, "--audit-rules: rules file" in wrong.stderr) == (4, True)
