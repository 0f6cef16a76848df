"""The FastAPI integration: an application's own authentication names the principal."""

import sys
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from audit_integrations.fastapi import audited_user
from audit_middleware import AuditMiddleware
from tests.capture.kit import make_pipeline, records


class Account:
    def __init__(self, username):
        self.username = username


@pytest.fixture
def calls():
    return []


@pytest.fixture
def client(tmp_path, calls):
    def current_account(x_user: Annotated[str | None, Header()] = None):
        calls.append(x_user)
        if x_user == "nobody":
            raise HTTPException(401)
        return Account(x_user) if x_user else None

    app = FastAPI(dependencies=[Depends(audited_user(current_account))])
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))

    @app.get("/")
    def read(account: Annotated[Account | None, Depends(audited_user(current_account))]):
        return account.username if account else None

    return TestClient(app)


def test_the_user_of_the_dependency_is_on_record_and_reaches_the_endpoint(client, tmp_path, calls):
    assert client.get("/", headers={"x-user": "alice"}).json() == "alice"
    assert records(tmp_path)[0]["principal"]["id"] == "alice"
    assert calls == ["alice"]  # wrapped twice, called once


def test_nobody_signed_in_is_anonymous(client, tmp_path):
    client.get("/")
    assert records(tmp_path)[0]["principal"]["type"] == "anonymous"


def test_a_refused_sign_in_is_on_record_as_denied(client, tmp_path):
    assert client.get("/", headers={"x-user": "nobody"}).status_code == 401
    assert records(tmp_path)[0]["outcome"] == "denied"


def test_without_fastapi_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "audit_integrations.fastapi")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'audit-ready\[fastapi\]'"):
        import audit_integrations.fastapi  # noqa: F401 - the import is the test
