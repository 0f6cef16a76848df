"""The coverage gate on applications as they are: wrapped, mounted, by host, broken, without a route."""

import pytest

from tests.integrations.test_pytest_plugin import coverage, run

__all__ = ["run"]
GATE = ("--audit-coverage=shop:app", "--audit-fail-under=100")
NOTHING = "def test_nothing(): pass"
FASTAPI = """
    from fastapi import FastAPI
    from starlette.routing import Host, Mount, Route, Router
    from starlette.responses import PlainTextResponse
    from audit_middleware import AuditMiddleware

    app = FastAPI(title="shop")
    app.add_middleware(AuditMiddleware)
"""
CLIENT = """
    from starlette.testclient import TestClient
    from shop import app

    def test_it():
        client = TestClient(app)
"""


def test_an_app_without_a_route_is_a_problem_and_not_covered(run, tmp_path):
    ran = run(*GATE, app="from starlette.applications import Starlette\napp = Starlette()", tests=NOTHING)
    assert ran.returncode == 1
    assert "Starlette has nothing that can be called, no route, task or command: nothing to cover" in ran.stdout
    assert coverage(tmp_path)[0]["passed"] is False


def test_the_pages_that_fastapi_adds_are_entry_points_like_others(run, tmp_path):
    pages = ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"]
    ran = run(*GATE, app=FASTAPI, tests=CLIENT + "".join(f"        client.get({page!r})\n" for page in pages))
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == {f"GET {page}": "audited" for page in pages}


def test_convertors_in_routes_and_mounts_are_spelled_as_on_record(run, tmp_path):
    app = (
        FASTAPI.replace('title="shop"', 'title="shop", openapi_url=None')
        + """
    def read(request):
        return PlainTextResponse("x")

    app.mount("/i/{n:int}", Router([Route("/o/{order:int}", read), Mount("/d/{m}", routes=[Route("/e", read)])]))
    """
    )
    ran = run(*GATE, app=app, tests=CLIENT + """
        client.get("/i/7/o/8")
        client.get("/i/7/d/8/e")
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert len(coverage(tmp_path)[1]) == 2


@pytest.mark.parametrize(
    "audits", ["app.add_middleware(AuditMiddleware)", "app = AuditMiddleware(app)", "app = AuditMiddleware(Gzip(app))"]
)
def test_mounts_of_included_routers_are_spelled_as_on_record(run, tmp_path, audits):
    app = f"""
    from fastapi import APIRouter, FastAPI
    from starlette.middleware.gzip import GZipMiddleware as Gzip
    from starlette.staticfiles import StaticFiles
    from audit_middleware import AuditMiddleware

    inner, leaf = FastAPI(openapi_url=None), APIRouter()
    leaf.get("/a/{{a}}")(lambda a: a)
    inner.include_router(leaf, prefix="/leaf/{{l}}")
    inner.get("/b")(lambda: "b")
    outer, middle = APIRouter(), APIRouter()
    outer.mount("/in/{{n:int}}", Gzip(inner))
    outer.mount("/static", StaticFiles(directory="."))
    middle.include_router(outer, prefix="/mid/{{m}}")
    app = FastAPI(openapi_url=None)
    app.include_router(middle, prefix="/out/{{o}}")
    {audits}
    """
    ran = run(*GATE, app=app, tests=CLIENT + """
        client.get("/out/1/mid/2/in/3/leaf/4/a/5")
        client.get("/out/1/mid/2/in/3/b")
        client.get("/out/1/mid/2/static/shop.py")
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == {
        "GET /out/{o}/mid/{m}/in/{n:int}/leaf/{l}/a/{a}": "audited",
        "GET /out/{o}/mid/{m}/in/{n:int}/b": "audited",
        "* /out/{o}/mid/{m}/static/*": "audited",
    }


def test_routes_of_a_host_are_walked(run, tmp_path):
    app = (
        FASTAPI.replace('title="shop"', 'title="shop", openapi_url=None')
        + """
    app.router.routes.append(Host("api.example.org", Router([Route("/a", lambda request: PlainTextResponse("x"))])))
    """
    )
    ran = run(*GATE, app=app, tests=CLIENT + """
        client.get("/a", headers={"Host": "api.example.org"})
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == {"GET /a": "audited"}


def test_frontends_of_fastapi_are_walked_and_spelled_as_mounted_files_are(run, tmp_path):
    (tmp_path / "index.html").write_text("<p>")
    app = """
    from fastapi import APIRouter, FastAPI
    from audit_middleware import AuditMiddleware

    bare, below = {"openapi_url": None}, APIRouter()
    below.frontend("/ui", directory=".")
    middle, inner, app = APIRouter(), FastAPI(**bare), FastAPI(**bare)
    middle.include_router(below, prefix="/of")
    inner.frontend("/", directory=".")
    inner.include_router(below)
    app.mount("/in/{n}", inner)
    app.include_router(middle, prefix="/admin")
    app.frontend("/", directory=".")
    app.add_middleware(AuditMiddleware)
    """
    ran = run(*GATE, app=app, tests=CLIENT + """
        for path in ("/", "/shop.py", "/admin/of/ui/shop.py", "/in/1/", "/in/1/ui/shop.py"):
            assert client.get(path).status_code == 200, path
        assert client.get("/nothing.js").status_code == 404
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == dict.fromkeys(
        ["* /in/{n}/*", "* /in/{n}/ui/*", "* /*", "* /admin/of/ui/*"], "audited"
    )


def test_hosts_of_an_included_router_are_walked(run, tmp_path):
    app = """
    from fastapi import APIRouter, FastAPI
    from starlette.responses import PlainTextResponse
    from starlette.routing import Host, Mount, Route, Router
    from audit_middleware import AuditMiddleware

    async def show(request):
        return PlainTextResponse("x")

    tenant, inner, app = APIRouter(), FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    tenant.routes.append(Host("{name}.example.org", Router([Mount("/m/{m}", routes=[Route("/a/{a}", show)])])))
    inner.include_router(tenant, prefix="/of")
    app.mount("/in/{n}", inner)
    app.include_router(tenant)
    app.add_middleware(AuditMiddleware)
    """
    ran = run(*GATE, app=app, tests=CLIENT + """
        for path in ("/m/1/a/2", "/in/3/of/m/1/a/2"):
            assert client.get(path, headers={"Host": "acme.example.org"}).status_code == 200, path
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == dict.fromkeys(["GET /m/{m}/a/{a}", "GET /in/{n}/of/m/{m}/a/{a}"], "audited")


def test_an_app_inside_middleware_is_found(run, tmp_path):
    app = """
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route
    from starlette.responses import PlainTextResponse
    from audit_middleware import AuditMiddleware

    class Wrapped:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)

    routes = [Route("/a", lambda request: PlainTextResponse("x"))]
    app = AuditMiddleware(Wrapped(Starlette(routes=[*routes, Mount("/in", Wrapped(Starlette(routes=routes)))])))
    """
    ran = run(*GATE, app=app, tests=CLIENT + """
        client.get("/a")
        client.get("/in/a")
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == {"GET /a": "audited", "GET /in/a": "audited"}


DJANGO = """
    import sys
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF="shop",
        MIDDLEWARE=["audit_integrations.django.AuditMiddleware"],
    )
    urlpatterns = [path("orders/<int:pk>", lambda request, pk: HttpResponse("x"))]
"""


def test_a_mounted_django_project_is_walked_below_its_mount(run, tmp_path):
    app = (
        DJANGO
        + """
    from django.core.asgi import get_asgi_application
    from starlette.applications import Starlette
    from audit_middleware import AuditMiddleware

    app = Starlette()
    app.add_middleware(AuditMiddleware)
    app.mount("/of/{tenant}", get_asgi_application())
    """
    )
    ran = run(*GATE, app=app, tests=CLIENT + """
        assert client.get("/of/acme/orders/7").text == "x"
    """)  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert coverage(tmp_path)[1] == {"* /of/{tenant}/orders/<int:pk>": "audited"}


@pytest.mark.parametrize(
    ("app", "target", "says"),
    [
        ("def app():\n    raise ValueError('no database')", "shop:app()", "ValueError: no database"),
        ("import sys\nsys.exit('no settings')", "shop:app", "SystemExit: no settings"),
        (None, "shop:app", "no_such_urls"),
    ],
)
def test_an_app_that_cannot_be_made_or_walked_is_named_before_and_after_the_run(run, tmp_path, app, target, says):
    broken = (
        DJANGO.replace('"shop"', '"no_such_urls"')
        + """
    from django.core.wsgi import get_wsgi_application
    app = get_wsgi_application()
    """
    )
    (tmp_path / "audit-coverage.json").write_text('{"passed": true}')
    ran = run(f"--audit-coverage={target}", app=app or broken, tests=NOTHING)
    report, _ = coverage(tmp_path)
    assert ran.returncode == 1
    assert "1 passed" in ran.stdout
    assert "INTERNALERROR" not in ran.stdout + ran.stderr
    assert "audit coverage could not be found out" in ran.stdout
    assert report["passed"] is False
    assert says in report["problem"]
    if app is not None:
        announced = ran.stdout.index("tried again after the run")
        assert announced < ran.stdout.index("audit coverage could not be found out")


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_wrong_target_leaves_no_passed_report_of_an_earlier_run(run, tmp_path, workers):
    (tmp_path / "audit-coverage.json").write_text('{"passed": true}')
    ran = run("--audit-coverage=shop:no", *workers, tests=NOTHING)
    assert ran.returncode == 1
    assert coverage(tmp_path)[0]["passed"] is False
    assert "tried again after the run" in ran.stdout


def test_collecting_alone_judges_nothing(run, tmp_path):
    ran = run(*GATE, "--collect-only")
    assert ran.returncode == 0, ran.stdout
    assert "FAILED" not in ran.stdout
    assert not (tmp_path / "audit-coverage.json").exists()


CELERY = """
    from celery import Celery
    from audit_integrations.celery import Audit
    from audit_middleware import audited

    app = Celery("shop", broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, imports=["more"])
    Audit(app)

    @app.task
    def send(order):
        return order

    @app.task
    @audited(exempt="asks for nothing")
    def ping():
        pass
"""
MORE = """
from shop import app

@app.task
def refund(order):
    pass
"""


def test_the_tasks_of_a_celery_app_are_entry_points_imported_or_not(run, tmp_path):
    (tmp_path / "more.py").write_text(MORE)
    tests = "from shop import send\n\ndef test_send():\n    assert send.delay(7).get() == 7"
    ran = run(*GATE, app=CELERY, tests=tests)
    assert ran.returncode == 1
    assert coverage(tmp_path)[1] == {"* shop.send": "audited", "* shop.ping": "exempt", "* more.refund": "unseen"}
    assert "TASK more.refund  never seen" in ran.stdout
    ran = run(*GATE, app=CELERY, tests=tests + "\n    import more\n    more.refund.delay(8)")
    assert ran.returncode == 0, ran.stdout


def test_tasks_of_a_celery_app_that_nobody_audits_are_never_seen(run, tmp_path):
    app = CELERY.replace("    Audit(app)\n", "").replace(', imports=["more"]', "")
    ran = run(*GATE, app=app, tests="from shop import send\n\ndef test_send():\n    send.delay(7)")
    assert ran.returncode == 1
    assert coverage(tmp_path)[1]["* shop.send"] == "unseen"


def test_the_actors_of_a_dramatiq_broker_are_entry_points(run, tmp_path):
    app = """
    import dramatiq
    from dramatiq.brokers.stub import StubBroker
    from audit_integrations.dramatiq import Audit

    app = StubBroker()
    Audit(app)
    dramatiq.set_broker(app)

    @dramatiq.actor
    def send(order):
        pass

    @dramatiq.actor
    def refund(order):
        pass
    """
    ran = run(*GATE, app=app, tests="""
    import dramatiq
    from shop import app, send

    def test_send():
        worker = dramatiq.Worker(app, worker_timeout=50)
        worker.start()
        send.send(7)
        app.join(send.queue_name)
        worker.join()
        worker.stop()
    """)  # fmt: skip
    assert ran.returncode == 1
    assert coverage(tmp_path)[1] == {"* send": "audited", "* refund": "unseen"}


CLICK = """
    import click
    from audit_integrations.click import Audit

    @click.group()
    def app():
        pass

    @app.command()
    def export():
        pass

    Audit()(app)

    @app.command()
    def late():
        pass
"""
TYPER = """
    import typer
    from audit_integrations.click import Audit

    cli = typer.Typer()

    @cli.command()
    def export():
        pass

    Audit()(cli)

    @cli.command()
    def late():
        pass

    app = cli
"""


@pytest.mark.parametrize(("app", "runner"), [(CLICK, "click"), (TYPER, "typer")])
def test_the_commands_of_a_program_are_entry_points_audited_or_not(run, tmp_path, app, runner):
    ran = run(*GATE, app=app, tests=f"""
    from {runner}.testing import CliRunner
    from shop import app

    def test_it():
        assert CliRunner().invoke(app, ["export"]).exit_code == 0
        assert CliRunner().invoke(app, ["late"]).exit_code == 0
    """)  # fmt: skip
    assert ran.returncode == 1
    assert coverage(tmp_path)[1] == {"* export": "audited", "* late": "unseen"}
    assert "COMMAND late    never seen" in ran.stdout


def test_what_is_no_application_is_named(run, tmp_path):
    ran = run(*GATE, app="app = object()", tests=NOTHING)
    assert ran.returncode == 1
    assert "what can be called in object cannot be seen; expected a FastAPI" in ran.stdout
