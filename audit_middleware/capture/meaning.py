"""What a request means: principal, action, resource and outcome, from what was said and what was seen. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, get_args

import msgspec

from audit_middleware.plain import Plainer
from audit_middleware.record import UNKNOWN, AuthMethod, Outcome, Principal, PrincipalType, Resource
from audit_middleware.sealing.context import Context

NO_ROUTE: Final = "none"
"""The route of a request that no route matched: known, and no defect."""
MAX_ID: Final = 256
# {name} or {name:convertor} of Starlette and Litestar; <convertor:name> of Flask and Django, <name:filter> of Bottle
_PARAMETER: Final = re.compile(r"\{([^{}]+)\}|<([^<>]+)>")
_SCHEMES: Final[dict[bytes, AuthMethod]] = {b"bearer": "bearer", b"basic": "basic", b"api-key": "api_key"}
_OUTCOMES: Final = frozenset(get_args(Outcome))
_TYPES: Final = frozenset(get_args(PrincipalType))
_IDENTITIES: Final = ("identity", "username", "pk", "id", "sub", "display_name", "name")
"""What the name of a user is called, best first."""
_METHODS: Final = frozenset(get_args(AuthMethod))
ANONYMOUS: Final = Principal("anonymous", "anonymous", "none")
NOT_KNOWN: Final = Principal(UNKNOWN, "unknown", "unknown")


def outcome_from_status(status: int | None) -> Outcome:
    """401 and 403 are denials; no status at all means that the application failed before it answered."""
    if status in {401, 403}:
        return "denied"
    return "success" if status is not None and status < 400 else "failure"  # noqa: PLR2004 - HTTP status classes


def outcome_from_grpc(code: int | None) -> Outcome:
    """PERMISSION_DENIED and UNAUTHENTICATED are denials; gRPC's status codes are 0 to 16, and 0 is OK."""
    if code in {7, 16}:
        return "denied"
    return "success" if code == 0 else "failure"


def is_template_of(route: str, path: str) -> bool:
    """Say whether ``path``, or what stands behind a base path in it, is of the template ``route``."""
    return _pattern(route, "(?:/.*)?").fullmatch(path) is not None


def said_outcome(said: object, notes: Plainer) -> Outcome | None:
    """Return the outcome the application gave; one that is none is a defect."""
    if isinstance(said, str) and said in _OUTCOMES:
        return said  # type: ignore[return-value] # narrowed by membership
    notes.defects.append("outcome")
    return None


def said_resource(said: object, notes: Plainer) -> Resource | None:
    """Read a `Resource`, ``(type, id)`` or ``"type:id"``; anything else is a defect."""
    if isinstance(said, Resource):
        pair: tuple[object, object] = (said.type, said.id)
    elif isinstance(said, str) and ":" in said:
        kind, _, key = said.partition(":")
        pair = (kind, key)
    elif isinstance(said, tuple) and len(said) == 2:  # noqa: PLR2004 - a pair
        pair = said
    else:
        notes.defects.append("resource")
        return None
    kind = notes.cut(notes.text(pair[0], "resource.type"), MAX_ID, "resource.type")
    identity = notes.cut(notes.text(pair[1], "resource.id"), MAX_ID, "resource.id")
    if not kind or not identity:
        notes.defects.append("resource")
        return None
    return Resource(kind, identity)


def resource_of(route: str | None, params: object, path: str, notes: Plainer) -> Resource:
    """Name a resource by its route: ``/orders/{id}`` with id 7 is ``orders`` 7, ``/orders`` is ``orders`` ``*``."""
    if route is None:
        return Resource("path", path)
    kind, parameters = _template(route)
    if not parameters:
        return Resource(kind, "*")
    if type(params) is not dict:
        params = dict(params) if isinstance(params, Mapping) else {}
    if not params:
        params = _read_from(route, path)
    if len(parameters) == 1:
        value = params.get(parameters[0][0])
        if type(value) is str and value.isascii() and len(value) <= MAX_ID:
            return Resource(kind, value)
    values = [_value(names, params, notes) for names in parameters]
    return Resource(kind, notes.cut("/".join(values), MAX_ID, "resource.id"))


def _read_from(route: str, path: str) -> dict[str, str]:
    """Read the parameters from the path, where only the template is known: what a router said in one line of ours."""
    match = _pattern(route).fullmatch(path)
    names = [names[-1] for names in _template(route)[1]]
    return dict(zip(names, match.groups(), strict=True)) if match else {}


@lru_cache(maxsize=4096)
def _pattern(route: str, before: str = "") -> re.Pattern[str]:
    parts = _PARAMETER.split(route)[::3]  # text, braced, angled, text, ...
    return re.compile(before + "([^/]+)".join(re.escape(part) for part in parts))


def _value(names: tuple[str, ...], params: Mapping[str, object], notes: Plainer) -> str:
    for name in names:
        if name in params:
            value = params[name]
            return value if type(value) is str and value.isascii() else notes.text(value, f"resource.{name}")
    notes.defects.append("resource.id")
    return UNKNOWN


@lru_cache(maxsize=4096)
def _template(route: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """The static segments of a route, and what each of its parameters may be called: frameworks put types around."""
    named = route.removeprefix("/*/")  # a language or so in front, which is not worth a parameter
    static = [part for part in named.split("/") if part and not _PARAMETER.search(part)]
    names = tuple(tuple((braced or angled).split(":")) for braced, angled in _PARAMETER.findall(route))
    return "/".join(static) or "root", names


def auth_method(authorization: bytes | None) -> AuthMethod:
    """Say how a principal was proven, from the scheme of the credentials that came along."""
    if not authorization:
        return "unknown"
    scheme = authorization[:16].split(b" ", 1)[0].lower()
    return _SCHEMES.get(scheme, "header")


def principal_of(said: object, authorization: bytes | None, notes: Plainer, *, is_refused: bool) -> Principal:
    """Return who acted.

    ``said`` is a `Principal`, a name, a mapping, or a framework's user object. With nobody named the request is
    anonymous, unless credentials were presented and not refused: then somebody is known to the application and not
    to the record, which is a defect.
    """
    if said is None:
        if authorization is None or is_refused:
            return ANONYMOUS
        notes.defects.append("principal")
        return Principal(UNKNOWN, "unknown", auth_method(authorization))
    try:
        return _principal(said, authorization, notes)
    except (Exception, SystemExit):  # noqa: BLE001 - properties of an application's user object may raise anything
        notes.defects.append("principal")
        return NOT_KNOWN


def called_by(
    cause: Context, said: object, authorization: bytes | None, notes: Plainer, *, is_refused: bool
) -> Principal:
    """Return who acted in a call of another service of ours: whom this one signed in, else that service.

    Either acts on behalf of whoever brought the call about, if that is somebody else.
    """
    if said is None:
        caller = Principal(cause.service, "service", "context")
    else:
        caller = principal_of(said, authorization, notes, is_refused=is_refused)
    origin = cause.principal.on_behalf_of or cause.principal.id
    if caller.on_behalf_of is not None or cause.principal.type == "anonymous" or origin in {caller.id, UNKNOWN}:
        return caller
    return msgspec.structs.replace(caller, on_behalf_of=origin)


def _principal(said: object, authorization: bytes | None, notes: Plainer) -> Principal:
    if type(said) is str:
        if said and said.isascii() and len(said) <= MAX_ID:
            return Principal(said, "user", auth_method(authorization))
        return _checked({"id": said}, authorization, notes)
    if isinstance(said, Principal):
        return _checked({name: getattr(said, name) for name in Principal.__struct_fields__}, authorization, notes)
    if isinstance(said, Mapping):
        return _checked(said if "id" in said else {**said, **_named_in(said)}, authorization, notes)
    if getattr(said, "is_authenticated", True) is False:
        return ANONYMOUS
    return _checked(_named_by(said), authorization, notes)


def plain_principal(user: object) -> object:
    """Return who a user object is as plain values, read now: later its session or its context may be gone.

    What `principal_of` takes as it is, is returned as it is. Never raises: one that cannot be read is unknown.
    """
    try:
        if user is None or isinstance(user, str | Principal):
            return user
        current = getattr(user, "_get_current_object", None)  # a proxy of Werkzeug's, of what belongs to this request
        if current is not None:
            return plain_principal(current())
        if isinstance(user, Mapping):
            return dict(user)
        return None if getattr(user, "is_authenticated", True) is False else _named_by(user)
    except (Exception, SystemExit):  # noqa: BLE001 - an application's own properties may raise anything
        return {"id": None, "type": UNKNOWN, "auth": UNKNOWN}


def _named_by(user: object) -> dict[str, object]:
    """Read an object: Starlette's users have identity and display_name, Django's get_username() and pk."""
    for attribute in _IDENTITIES:
        try:
            value = getattr(user, attribute, None)
        except NotImplementedError:
            continue
        if value is not None and not callable(value):
            name = getattr(user, "display_name", None)
            return {"id": value, "name": name if isinstance(name, str) and name else None}
    keys = getattr(user, "keys", None)  # a row of a database
    if callable(keys):
        return _named_in({str(key): user[key] for key in keys()})  # type: ignore[index] # it has keys
    kind = type(user)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return {"id": None}  # an address in memory is nobody's name
    return {"id": str(user)}


def _named_in(row: Mapping[str, object]) -> dict[str, object]:
    """Find the identity in what a token or a database says of a user."""
    return {"id": next((row[name] for name in _IDENTITIES if row.get(name) is not None), None)}


def _checked(fields: Mapping[str, Any], authorization: bytes | None, notes: Plainer) -> Principal:
    """Build a principal of correct types from whatever was given."""
    kind: Any = fields.get("type", "user")
    auth: Any = fields.get("auth")
    if not isinstance(kind, str) or kind not in _TYPES:
        kind = _defect(notes, "principal.type")
    if auth is None:
        auth = auth_method(authorization)
    elif not isinstance(auth, str) or auth not in _METHODS:
        auth = _defect(notes, "principal.auth")
    optional = {
        name: notes.cut(notes.text(fields[name], f"principal.{name}"), MAX_ID, f"principal.{name}")
        for name in ("tenant", "name", "on_behalf_of")
        if fields.get(name) is not None
    }
    privileged = fields.get("privileged")
    identity = fields.get("id")
    shown = notes.text(identity, "principal.id") if identity is not None else ""
    return Principal(
        notes.cut(shown or _defect(notes, "principal.id"), MAX_ID, "principal.id"),
        kind,
        auth,
        privileged=bool(privileged) if privileged is not None else None,
        **optional,
    )


def _defect(notes: Plainer, where: str) -> Any:  # noqa: ANN401 - stands for a member of any of our string types
    notes.defects.append(where)
    return UNKNOWN
