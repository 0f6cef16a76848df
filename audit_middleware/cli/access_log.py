"""Access logs, as an independent witness writes them: one line is one request that was answered. Pure.

Read are the combined format of nginx, Apache and gunicorn, JSON of nginx and Envoy, uvicorn's own, and the load
balancers of AWS. A request id is believed from a field of its own only: path, referrer and user agent are the client's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

_REQUEST: Final = re.compile(r"([A-Z]{1,32}) (\S+)(?: HTTP/[0-9.]+)?")
# http://nginx.org/en/docs/http/ngx_http_log_module.html; quotes inside a field are escaped, as \x22 or \"
_COMBINED: Final = re.compile(
    r'\S+ \S+ .*?\[([^\]]{1,40})\] "((?:[^"\\]|\\.)*)" ([0-9]{3}) (?:[0-9]+|-)(?: "(?:[^"\\]|\\.)*"){0,2}(.*)'
)
_UVICORN: Final = re.compile(r'(?:INFO: +)?\S+ - "((?:[^"\\]|\\.)*)" ([0-9]{3})(?: .*)?')
# AWS, Elastic Load Balancing, "Access logs for your Application Load Balancer"
_ALB: Final = re.compile(
    r'(?:https?|h2|grpcs|wss?) (\S+Z) \S+ \S+ \S+ \S+ \S+ \S+ ([0-9]{3}) \S+ \S+ \S+ "((?:[^"\\]|\\.)*)" .*'
)
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{8,128}")
_ESCAPE: Final = re.compile(r"\\x([0-9A-Fa-f]{2})")

_TIME: Final = ("time", "time_iso8601", "time_local", "timestamp", "@timestamp", "start_time", "msec", "ts")
_METHOD: Final = ("method", "request_method")
_PATH: Final = ("x_envoy_original_path", "request_uri", "uri", "path", "url")
_STATUS: Final = ("status", "response_code")
_REQUEST_ID: Final = ("sent_http_x_request_id", "upstream_http_x_request_id", "x_request_id", "request_id")


class Witnessed(NamedTuple):
    """One line: what was asked and answered; ``at`` is seconds since the epoch, None where the log has no times."""

    number: int
    at: float | None
    method: str
    path: str
    status: int
    request_id: str | None = None


def read_line(number: int, line: str) -> Witnessed | None:
    """Return what a line says, None for one of no known format, or of a request that was none."""
    line = line.strip()
    try:
        if line.startswith("{"):
            return _of_json(number, line)
        if found := _COMBINED.fullmatch(line):
            return _witnessed(number, _time(found[1]), found[2], found[3], _own_field(found[4]))
        if found := _ALB.fullmatch(line):
            return _witnessed(number, _time(found[1]), found[3], found[2])
        if found := _UVICORN.fullmatch(line):
            return _witnessed(number, None, found[1], found[2])
    except (ValueError, OverflowError, TypeError, RecursionError):
        return None
    return None


def plain_path(target: str) -> str:
    """Return the path of a request target without its query, decoded as applications see it."""
    target = _ESCAPE.sub(lambda byte: "%" + byte[1], target)
    path = urlsplit(target).path if not target.startswith("/") else target.partition("?")[0]
    return unquote(path, errors="replace") or "/"


def _witnessed(
    number: int, at: float | None, request: str, status: str, request_id: str | None = None
) -> Witnessed | None:
    found = _REQUEST.fullmatch(request)
    return Witnessed(number, at, found[1], plain_path(found[2]), int(status), request_id) if found else None


def _own_field(rest: str) -> str | None:
    """Return a request id among the fields that a log format has behind those everybody knows."""
    ids = [field for field in rest.replace('"', " ").split() if _ID.fullmatch(field) and not _is_number(field)]
    return ids[-1] if ids else None


def _is_number(text: str) -> bool:
    return text.replace(".", "").isdigit()


def _of_json(number: int, line: str) -> Witnessed | None:
    said: dict[str, Any] = {name.lower().replace("-", "_"): value for name, value in json.loads(line).items()}
    status, id_ = _first(said, _STATUS), _first(said, _REQUEST_ID)
    method, path = _first(said, _METHOD), _first(said, _PATH)
    if method is not None and path is not None:
        request = f"{method} {str(path).replace(' ', '%20')}"
    else:
        request = str(said.get("request", ""))
    moment = _first(said, _TIME)
    at = _time(str(moment)) if moment is not None else None
    return _witnessed(number, at, request, str(status), str(id_) if id_ is not None else None)


def _first(said: Mapping[str, Any], names: Iterable[str]) -> Any:  # noqa: ANN401 - a member of a JSON object
    return next((said[name] for name in names if said.get(name) not in {None, "", "-"}), None)


def _time(text: str) -> float:
    """Return a time as seconds since the epoch; raises `ValueError`."""
    if _is_number(text):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z")
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
