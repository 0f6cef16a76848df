"""A collector as the command line sees it: over HTTP, with httpx imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from audit_middleware.errors import ConfigurationError, DeliveryError
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify.ledger import Log

if TYPE_CHECKING:
    import httpx


class Remote:
    """Reads from one collector; every failure is a `DeliveryError` that says what to do."""

    def __init__(self, url: str, *, token: str | None) -> None:
        import httpx

        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30.0)

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> httpx.Response | None:
        """Return the answer to a GET, None for 404; raise `DeliveryError` for anything but success."""
        import httpx

        try:
            response = self._client.get(path, params=parameters)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryError(f"{self.url} does not answer: {error}") from error
        if response.status_code == 404:  # noqa: PLR2004 - HTTP status
            return None
        if not response.is_success:
            hint = "; set AUDIT_TOKEN to a token with role reader" if response.status_code in {401, 403} else ""
            raise DeliveryError(f"{self.url}{path} answers {response.status_code}: {response.text[:300]}{hint}")
        return response


class RemoteLogs:
    """The logs of a collector, read file by file as an auditor would."""

    def __init__(self, url: str, *, token: str | None) -> None:
        self._remote = Remote(url, token=token)

    def logs(self, pinned: tuple[str, ...]) -> list[Log]:
        """Return every log the collector names; pinned keys must be among its keys, or it is another log."""
        answer = self._remote.get("/log.vkey")
        offered = answer.text.split() if answer is not None else []
        if not offered:
            raise ConfigurationError(f"{self._remote.url} names no log key: is it a collector?")
        for vkey in pinned:
            if vkey not in offered:
                raise ConfigurationError(f"{self._remote.url} has no log of the pinned key {vkey}")
        verifiers = [Verifier.parse(vkey) for vkey in pinned or offered]
        return [self._log(verifier) for verifier in sorted(verifiers, key=lambda each: each.name)]

    def _log(self, verifier: Verifier) -> Log:
        name = "/".join(verifier.name.split("/")[-2:])

        def read(key: str) -> bytes | None:
            answer = self._remote.get(f"/log/{name}/{key}")
            return answer.content if answer is not None else None

        return Log(name, LogReader(read, verifier))


def pages(remote: Remote, parameters: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """Yield up to ``limit`` records of a search, page by page."""
    cursor: str | None = None
    while limit > 0:
        query = {**parameters, "limit": min(limit, 500)} | ({"cursor": cursor} if cursor else {})
        answer = remote.get("/v1/records", query)
        page = answer.json() if answer is not None else {"records": [], "next": None}
        yield from page["records"]
        limit -= len(page["records"])
        cursor = page["next"]
        if cursor is None:
            return


def collector_url(url: str | None) -> str:
    """Return the collector to ask: the option, else the first of AUDIT_COLLECTOR_URL."""
    found = url or os.environ.get("AUDIT_COLLECTOR_URL", "").split(",")[0].strip()
    if not found:
        raise ConfigurationError("no collector is named: give --url or set AUDIT_COLLECTOR_URL")
    return found
