"""A collector as the command line sees it: over HTTP, with httpx imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from audit_middleware import config
from audit_middleware.cli.ledgers import Target, Trust, read_vkeys
from audit_middleware.errors import ConfigurationError, DeliveryError
from audit_middleware.shipping.delivery import TLSFiles
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify.expired import FILE as EXPIRED
from audit_middleware.verify.expired import order_of
from audit_middleware.verify.ledger import Log, Scope
from audit_middleware.verify.rollback import KeptCheckpoint

if TYPE_CHECKING:
    import httpx


SIGNATURE: Final = "Audit-Collector"
"""Header of every answer of a collector (wire format, section 5); a proxy's page has it not."""


class Remote:
    """Reads from one collector; every failure is a `DeliveryError` that says what to do."""

    def __init__(self, url: str, *, token: str | None, purpose: str | None = None) -> None:
        import httpx

        headers = {"authorization": f"Bearer {token}"} if token else {}
        if purpose is not None:
            headers["audit-purpose"] = purpose
        self.url = url.rstrip("/")
        try:
            verify = TLSFiles.of(config.load()).context() if self.url.startswith("https://") else True
            self._client = httpx.Client(
                base_url=self.url, headers=headers, verify=verify, trust_env=False, timeout=30.0
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigurationError(f"{url} is no URL of a collector: {error}") from error
        except OSError as error:
            raise ConfigurationError(f"AUDIT_CA_FILE, AUDIT_CLIENT_CERT or AUDIT_CLIENT_KEY: {error}") from error

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> httpx.Response | None:
        """Return the answer to a GET, None for 404; raise `DeliveryError` for anything but success."""
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, body: object) -> httpx.Response | None:
        """Return the answer to a POST of JSON, None for 404; raise `DeliveryError` for anything but success."""
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **what: Any) -> httpx.Response | None:  # noqa: ANN401 - httpx's own keywords
        import httpx

        try:
            response = self._client.request(method, path, **what)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DeliveryError(f"{self.url} does not answer: {error}") from error
        if SIGNATURE not in response.headers:
            raise DeliveryError(
                f"{self.url}{path} answers {response.status_code}, but no collector does: {response.text[:200]!r}"
            )
        if response.status_code == 404:  # noqa: PLR2004 - HTTP status
            return None
        if not response.is_success:
            role = "reader" if method == "GET" else "admin"
            hint = f"; set AUDIT_TOKEN to a token with role {role}" if response.status_code in {401, 403} else ""
            raise DeliveryError(f"{self.url}{path} answers {response.status_code}: {response.text[:300]}{hint}")
        return response

    def json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return what the collector answers, as an object; raise `DeliveryError` for a refusal, with its reason."""
        import httpx

        try:
            response = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DeliveryError(f"{self.url} does not answer: {error}") from error
        if SIGNATURE not in response.headers:
            raise DeliveryError(f"{self.url}{path} answers {response.status_code}, but no collector does")
        answer = _object(response.content)
        if not response.is_success:
            raise DeliveryError(f"{self.url} refuses: {answer.get('detail', response.status_code)}")
        return answer


def _object(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise DeliveryError(f"the answer is no JSON object: {error}") from error


class RemoteLogs:
    """The logs of a collector, read file by file as an auditor would."""

    def __init__(self, url: str, *, token: str | None) -> None:
        self._remote = Remote(url, token=token, purpose="verify")

    def target(self, trust: Trust, kept: Sequence[KeptCheckpoint]) -> Target:
        """Return every log the collector names, each to be signed by a trusted key."""
        answer = self._remote.get("/log.vkey")
        offered = read_vkeys(answer.content, f"{self._remote.url}/log.vkey") if answer is not None else []
        if not offered:
            raise ConfigurationError(f"{self._remote.url} names no log key: is it a collector?")
        trusted = {verifier.public: verifier for verifier in trust.keys(offered)}
        keys = [trusted.get(verifier.public) or next(iter(trusted.values())) for verifier in offered]
        verifiers = [replace(key, name=verifier.name) for key, verifier in zip(keys, offered, strict=True)]
        logs = sorted((self._log(verifier) for verifier in verifiers), key=lambda log: order_of(log.name))
        return Target(logs, Scope([verifier.name for verifier in trust.explicit], kept))

    def _log(self, verifier: Verifier) -> Log:
        name = "/".join(verifier.name.split("/")[-2:])

        def read(key: str) -> bytes | None:
            answer = self._remote.get(f"/log/{name}/{key}")
            return answer.content if answer is not None else None

        return Log(name, LogReader(read, verifier), expired=read(EXPIRED))


def pages(remote: Remote, parameters: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """Yield up to ``limit`` records of a search, page by page."""
    cursor: str | None = None
    while limit > 0:
        query = {**parameters, "limit": min(limit, 500)} | ({"cursor": cursor} if cursor else {})
        answer = remote.get("/v1/records", query)
        page = _page(remote, answer)
        yield from page.records
        limit -= len(page.records)
        cursor = page.next
        if cursor is None:
            return


class _Page(msgspec.Struct):
    records: list[dict[str, Any]] = []
    next: str | None = None


def _page(remote: Remote, answer: httpx.Response | None) -> _Page:
    if answer is None:
        return _Page()
    try:
        return msgspec.json.decode(answer.content, type=_Page)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DeliveryError(f"{remote.url} answers a search with something else: {error}") from error


def collector_url(url: str | None) -> str:
    """Return the collector to ask: the option, else the first of AUDIT_COLLECTOR_URL."""
    found = url or os.environ.get("AUDIT_COLLECTOR_URL", "").split(",")[0].strip()
    if not found:
        raise ConfigurationError("no collector is named: give --url or set AUDIT_COLLECTOR_URL")
    return found
