"""How a batch reaches a collector (wire format, section 5)."""

from __future__ import annotations

import email.utils
import gzip
import ipaddress
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from audit_middleware._version import __version__
from audit_middleware.config import Settings
from audit_middleware.errors import DeliveryError
from audit_middleware.quiet import quietly

if TYPE_CHECKING:
    import httpx

MAX_RECORDS: Final = 500
MAX_BATCH_BYTES: Final = 1024 * 1024  # wire format, section 5: after decompression
MAX_ANSWER_BYTES: Final = 1024 * 1024
CONNECT_S: Final = 2.0
READ_S: Final = 10.0
_ATTEMPT_PER_READ: Final = 1.5
_NEW_CLIENT_AFTER: Final = 5


class Answer(NamedTuple):
    """What came back: ``retry_after`` in seconds; ``is_collector`` when it says of itself to be one."""

    status: int
    body: bytes
    retry_after: float | None
    is_collector: bool


class Transport(Protocol):
    """Carries one batch to a collector. Not trusted: it can only fail, and its answer is checked elsewhere.

    One caller at a time. A failure may mean that nothing arrived, or that everything did and the answer was lost.
    """

    def post(self, body: bytes, tree_sizes: Mapping[str, int]) -> Answer:
        """Deliver NDJSON; ``tree_sizes`` are the newest log sizes seen. Raise `DeliveryError` without an answer."""

    def log_keys(self) -> list[str]:
        """Ask for the verifier keys of the collector's logs, to pin them on first use. Raise `DeliveryError`."""

    def close(self) -> None:
        """Let connections go."""


class TLSFiles(NamedTuple):
    """PEM files: the CA that is trusted, the usual ones if None; the certificate that is shown, and its key."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> TLSFiles:
        """Return the files that settings name."""
        return cls(settings.ca_file, settings.client_cert, settings.client_key)

    def context(self) -> ssl.SSLContext | bool:
        """Return what httpx verifies with. Raises ``OSError`` (``ssl.SSLError`` is one) for files that are none."""
        if self.ca is None and self.certificate is None:
            return True
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


class HTTPTransport:
    """Delivers over HTTP with httpx, which is imported with the first batch. Kept to one URL until that fails."""

    def __init__(
        self,
        urls: tuple[str, ...],
        *,
        token: str | None,
        compress: str = "auto",
        tls: TLSFiles = TLSFiles(),  # noqa: B008 - immutable
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._token = token
        self._compress = compress
        self._tls = tls
        self._client: httpx.Client | None = None
        self._failures = 0
        self.read_timeout_s = READ_S

    def post(self, body: bytes, tree_sizes: Mapping[str, int]) -> Answer:
        """Deliver NDJSON to the collector."""
        headers = {"content-type": "application/x-ndjson"}
        if tree_sizes:
            headers["audit-tree-size"] = ", ".join(f"{origin} {size}" for origin, size in tree_sizes.items())
        if self._is_compressing():
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        return self._request("POST", "/v1/records", body, headers)

    def log_keys(self) -> list[str]:
        """Ask for the verifier keys of the logs."""
        answer = self._request("GET", "/log.vkey", b"", {})
        if answer.status != 200 or not answer.is_collector:  # noqa: PLR2004 - HTTP status
            raise DeliveryError(
                f"{self._urls[0]}/log.vkey answered {answer.status}, not with keys: is this a collector?"
            )
        return answer.body.decode("utf-8", "replace").split()

    def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        import httpx

        url = self._urls[0] + path
        deadline = time.monotonic() + self.read_timeout_s * _ATTEMPT_PER_READ
        try:
            with quietly(), self._connected().stream(method, url, content=body, headers=headers) as response:
                content = self._read(response, deadline)
        except DeliveryError:
            self._note_failure()
            raise
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            self._note_failure()
            raise DeliveryError(f"{url}: {type(error).__name__}: {error}") from error
        self._failures = 0
        return Answer(
            response.status_code,
            content,
            retry_after(response.headers.get("retry-after")),
            response.headers.get("audit-collector") == "1",
        )

    def _connected(self) -> httpx.Client:
        if self._client is None:
            import httpx

            headers = {"user-agent": f"audit-ready/{__version__}"}
            if self._token:
                headers["authorization"] = f"Bearer {self._token}"
            self._client = httpx.Client(
                headers=headers,
                verify=self._trusted_authorities(),
                trust_env=False,  # a proxy variable of the application's must not carry its audit trail elsewhere
                timeout=httpx.Timeout(self.read_timeout_s, connect=min(CONNECT_S, self.read_timeout_s)),
            )
        return self._client

    def _trusted_authorities(self) -> ssl.SSLContext | bool:
        """The CA file given, else the usual ones; none are loaded, which takes 80 ms, when no URL is https."""
        if not any(url.startswith("https://") for url in self._urls):
            return False
        return self._tls.context()

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """Read an answer that is neither endless nor dripping: the read timeout bounds one read, not all of them."""
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_ANSWER_BYTES:
                raise DeliveryError(f"{response.url}: an answer of more than {MAX_ANSWER_BYTES} bytes; no collector?")
            if time.monotonic() > deadline:
                raise DeliveryError(f"{response.url}: the answer takes too long")
        return content

    def _note_failure(self) -> None:
        """Go on to the next URL, and after several failures with fresh connections."""
        self._failures += 1
        self._urls.append(self._urls.pop(0))
        if self._failures % _NEW_CLIENT_AFTER == 0:
            self.close()

    def _is_compressing(self) -> bool:
        if self._compress == "auto":
            return not _is_loopback(urlsplit(self._urls[0]).hostname or "")
        return self._compress == "on"


def retry_after(header: str | None, *, now: float | None = None) -> float | None:
    """Read ``Retry-After`` (RFC 9110, section 10.2.3): seconds, or a date; None for neither."""
    if header is None:
        return None
    digits = header.strip()
    if digits.isascii() and digits.isdigit():
        return float(digits)
    try:
        at = email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, at - (time.time() if now is None else now))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
