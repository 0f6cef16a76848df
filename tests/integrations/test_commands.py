"""Commands of click, Typer and Django, and background tasks, on record."""

import os
import pwd

import click
import pytest
import typer
from click.testing import CliRunner
from django.core.management import CommandError, call_command
from django.test import override_settings
from fastapi import BackgroundTasks, FastAPI
from starlette.background import BackgroundTask
from starlette.testclient import TestClient
from typer.testing import CliRunner as TyperRunner

from audit_integrations.click import Audit
from audit_integrations.starlette import audit_background
from audit_middleware import AuditMiddleware, ConfigurationError, Principal, audited, current_audit
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.errors import RequestRefused
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records

ME = pwd.getpwuid(os.getuid()).pw_name
ALICE = Principal("alice", "user", "session")


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path)


def make_group():
    @click.group()
    def cli():
        pass

    @cli.command()
    @click.argument("number", type=int)
    @click.pass_context
    def refund(ctx, number):
        current_audit().details["number"] = number
        ctx.exit(number)

    @cli.group()
    def more():
        pass

    @more.command("wrong")
    def fail():
        raise click.ClickException("secret")

    return cli


def test_every_command_of_a_click_group_is_on_record_with_its_exit_code(pipeline, tmp_path):
    cli = Audit(pipeline=pipeline)(make_group())
    codes = [CliRunner().invoke(cli, line.split()).exit_code for line in ("refund 0", "refund 3", "more wrong")]
    assert codes == [0, 3, 1]
    found = records(tmp_path, "task")
    assert [(each["action"], each["outcome"], each["details"]) for each in found] == [
        ("refund", "success", {"number": 0, "exit_code": 0}),
        ("refund", "failure", {"number": 3, "exit_code": 3}),
        ("wrong", "failure", {"exit_code": 1}),
    ]
    assert found[0]["principal"] == {"id": ME, "type": "system", "auth": "none"}
    assert (found[0]["task"]["kind"], len(records(tmp_path, "attempt"))) == ("command", 3)


def test_every_command_of_a_typer_app_is_on_record_and_keeps_its_arguments(pipeline, tmp_path):
    app, sub = typer.Typer(), typer.Typer()
    app.add_typer(sub, name="sub")

    @app.command()
    def refund(number: int, quick: bool = False):
        current_audit().details["said"] = [number, quick]

    @sub.command("stop")
    def leave_it():
        raise typer.Exit(4)

    Audit(pipeline=pipeline, principal="cron")(app)
    codes = [TyperRunner().invoke(app, line.split()).exit_code for line in ("refund 7 --quick", "sub stop")]
    assert codes == [0, 4]
    first, second = records(tmp_path, "task")
    assert (first["action"], first["details"], first["principal"]["id"]) == ("refund", {"said": [7, True]}, "cron")
    assert (second["action"], second["outcome"], second["details"]) == ("stop", "failure", {"exit_code": 4})


def test_one_function_can_be_a_command_on_record_and_one_inside_of_another_is_its_part(pipeline, tmp_path):
    audit = Audit(pipeline=pipeline)

    @click.command()
    @audit
    @audited("orders.tidy")
    def tidy():
        inner()

    inner = audit(lambda: None)
    assert CliRunner().invoke(tidy, []).exit_code == 0
    (record,) = records(tmp_path, "task")
    assert (record["action"], record["task"]["name"]) == ("orders.tidy", "tidy")


def test_a_command_that_cannot_be_recorded_does_not_run(tmp_path):
    files, ran = FaultyFiles(), []
    files.room = 0
    command = click.command()(Audit(pipeline=make_pipeline(tmp_path, files=files))(lambda: ran.append(1)))
    assert isinstance(CliRunner().invoke(command, []).exception, RequestRefused)
    assert ran == []


@pytest.mark.usefixtures("django_project")
class TestDjango:
    def test_a_management_command_is_on_record_without_an_edit(self, pipeline, tmp_path, capsys):
        with override_settings(AUDIT={"PIPELINE": pipeline, "COMMANDS": True}):
            call_command("check")
            with pytest.raises(CommandError):
                call_command("dumpdata", "nowhere")
        first, second = records(tmp_path, "task")
        assert (first["action"], first["task"]["kind"], first["outcome"]) == ("check", "command", "success")
        assert first["principal"] == {"id": ME, "type": "system", "auth": "none"}
        assert (second["outcome"], second["reason"], second["details"]) == ("failure", "CommandError", {"exit_code": 1})

    def test_inside_of_a_request_it_is_a_part_of_that(self, pipeline, tmp_path, capsys):
        token = enter(Exchange("web", "1", "POST", "/", 0))
        with override_settings(AUDIT={"PIPELINE": pipeline, "COMMANDS": True}):
            call_command("check")
        leave(token)
        assert records(tmp_path, "task") == []

    def test_only_those_that_are_named_and_none_by_default(self, pipeline, tmp_path, capsys):
        for named in (False, ["migrate"]):
            with override_settings(AUDIT={"PIPELINE": pipeline, "COMMANDS": named}):
                call_command("check")
        assert records(tmp_path, "task") == []
        with override_settings(AUDIT={"COMMANDS": "check"}), pytest.raises(ConfigurationError, match="COMMANDS"):
            call_command("check")

    def test_one_that_cannot_be_recorded_does_not_run(self, tmp_path):
        files = FaultyFiles()
        files.room = 0
        full = make_pipeline(tmp_path, files=files)
        with (
            override_settings(AUDIT={"PIPELINE": full, "COMMANDS": True}),
            pytest.raises(CommandError, match="its record cannot be kept"),
        ):
            call_command("check")


@pytest.fixture
def _background(monkeypatch):
    monkeypatch.setattr(BackgroundTask, "__call__", BackgroundTask.__call__)
    audit_background()
    audit_background()


@pytest.mark.usefixtures("_background")
def test_background_tasks_act_for_whoever_made_the_request_without_a_decorator(pipeline, tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=pipeline)

    def mail(number):
        current_audit().details["number"] = number

    async def index():
        pass

    @app.post("/orders")
    async def order(tasks: BackgroundTasks):
        current_audit().principal = ALICE
        tasks.add_task(mail, 7)
        tasks.add_task(audited("orders.index")(index))

    TestClient(app).post("/orders")
    (request,), (first, second) = records(tmp_path), records(tmp_path, "task")
    assert {each["task"]["kind"] for each in (first, second)} == {"background"}
    assert (first["principal"], first["details"]) == (request["principal"], {"number": 7})
    assert first["cause"]["request_id"] == request["trace"]["request_id"]
    assert (first["action"].endswith("mail"), second["action"]) == (True, "orders.index")
