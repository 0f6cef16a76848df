"""Flask: one line audits the app, and the principal is the one Flask-Login or the app itself signed in."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

from audit_middleware import AuditWSGIMiddleware, ConfigurationError, Pipeline, current_audit
from audit_middleware.capture import (
    FAILED,
    MARK,
    ROUTE,
    VIEW,
    Declaration,
    EntryPoint,
    Exchange,
    exchange_at_hand,
    plain_principal,
    refusal,
)
from audit_middleware.capture.entry_points import know
from audit_middleware.capture.rules import is_out_of_policy, rules_for
from audit_middleware.config import COLLECTOR_VARIABLES, SETTINGS, variable
from audit_middleware.errors import RequestRefused

try:
    import flask
    from flask import Flask, Request, Response, g
    from werkzeug.exceptions import HTTPException
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Flask is missing: pip install 'audit-ready[flask]'", name=error.name) from error

from audit_integrations.flask.views import view_in, view_of

__all__ = ["Audit", "entry_points"]

LOGGER: Final = logging.getLogger("audit_middleware")
_EXTENSION: Final = "audit"
_VARIABLES: Final = {variable(name): name for name in SETTINGS}
_UNAUTHORIZED: Final = 401
_REMEMBER_COOKIE: Final = "remember_token"  # what Flask-Login calls it when the config does not
_SIGNED_OUT: Final = "_audit_signed_out"
_FOLLOWED: Final[weakref.WeakSet[Flask]] = weakref.WeakSet()
"""Apps whose sign-outs are followed."""


class Audit:
    """Record every request of a Flask app: ``Audit(app)``, or ``Audit()`` and `init_app`.

    ``identify`` is called with the WSGI environ after the app ran and names the principal when nobody else did.
    Settings come from here, then from ``app.config["AUDIT_..."]``, then from the environment. Who Flask-Login signed
    in, or else what the app put into ``g.user``, or whom Flask-HTTPAuth or Flask-JWT-Extended found, is the principal;
    `current_audit` overrules all of them.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        identify: Callable[[Any], object] | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self._identify = identify
        self._pipeline = pipeline
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap ``app``; raise `ConfigurationError` for wrong settings, or when it is audited already."""
        if _EXTENSION in app.extensions:
            raise ConfigurationError(f"audit.E012: {app.name} is audited already: remove the second Audit(app)")
        given = self._settings if self._pipeline is not None else {**_settings_of(app), **self._settings}
        middleware = AuditWSGIMiddleware(
            app.wsgi_app,
            identify=self._identify,
            title=app.name,
            find_view=partial(view_of, app, application=app.wsgi_app),
            declares=_declaration(app),
            pipeline=self._pipeline,
            **given,
        )
        app.wsgi_app = middleware  # type: ignore[method-assign] # Flask's documented way to add WSGI middleware
        app.extensions[_EXTENSION] = self
        app.after_request(_note_user)  # the first one registered runs last, when the view has signed its user in
        flask.request_started.connect(_note_route)
        flask.request_finished.connect(_note_mounted)
        flask.got_request_exception.connect(_note_failure)


def _settings_of(app: Flask) -> dict[str, Any]:
    """Return the settings in ``app.config``; raise `ConfigurationError` for a name that is none.

    Those of a collector pass as they do in the environment, which is often where the config comes from.
    """
    ours = {name: value for name, value in app.config.items() if str(name).startswith("AUDIT_")}
    given = {name: value for name, value in ours.items() if name not in COLLECTOR_VARIABLES}
    unknown = sorted(set(given) - set(_VARIABLES))
    if unknown:
        raise ConfigurationError(f"audit.E001: unknown setting {', '.join(unknown)} in the config of {app.name}")
    return {_VARIABLES[name]: value for name, value in given.items()}


def _declaration(app: Flask) -> Declaration:
    return Declaration(f"flask {app.name}", partial(entry_points, app), ("flask", "werkzeug"))


def _mounted(app: object) -> Declaration | None:
    """Return what an audited app declares inside another: it tells the middleware there which route it was."""
    return _declaration(app) if isinstance(app, Flask) and _EXTENSION in app.extensions else None


know(_mounted, view_in)


def _note_route(app: Flask, **_: object) -> None:
    """Where an exception propagates, as under test, the adapter never sees Flask's request.

    An app that is not audited itself may be mounted in one that is.
    """
    request = _request()
    exchange = _observed(request)
    if request is None or exchange is None:
        return
    environ, rule = request.environ, request.url_rule
    exchange.ask_user = _known_user
    if app not in _FOLLOWED and "flask_login" in sys.modules:  # with the first request an app has what it uses
        _FOLLOWED.add(app)
        sys.modules["flask_login"].user_logged_out.connect(_note_signed_out, app)
    if rule is None:
        return
    view = app.view_functions.get(rule.endpoint)
    values = dict(request.view_args or {})  # a url_value_preprocessor takes some away
    environ[ROUTE], environ[VIEW] = (rule.rule, values), view
    if is_out_of_policy(exchange, view, request.method):
        raise RequestRefused(refusal.NOT_CARRIED_OUT)


def _request() -> Request | None:
    """Return Flask's request itself; None without one: applications send Flask's signals elsewhere too."""
    try:
        return cast("Request", _behind(flask.request))
    except RuntimeError:
        return None


def _behind(proxy: Any) -> Any:  # noqa: ANN401 - Flask's proxies are of any type
    """Return what a proxy of Flask stands for: each look through it costs as much as all of this."""
    return proxy._get_current_object()  # noqa: SLF001 - documented


def _observed(request: Request | None) -> Exchange | None:
    found = request.environ.get(MARK) if request is not None else None
    return found if isinstance(found, Exchange) else None


def _note_mounted(app: Flask, response: Response, **_: object) -> None:
    if _EXTENSION not in app.extensions and _observed(_request()) is not None:
        _note_user(response)


def _note_signed_out(_app: Flask, user: object, **_: object) -> None:
    """Remember who signed out: the request is theirs, though nobody is signed in when it ends."""
    request, cookie = flask.request, flask.current_app.config["SESSION_COOKIE_NAME"]
    in_session = cookie in request.cookies and "Authorization" not in request.headers
    setattr(g, _SIGNED_OUT, _described(user, in_session=in_session))


def _note_user(response: Response) -> Response:
    _note_who(is_refused=response.status_code == _UNAUTHORIZED)
    return response


def _note_failure(app: Flask, exception: BaseException, **_: object) -> None:
    """Nobody handled this exception: Flask answers 500, and `_note_user` has run or will not.

    Flask-RESTX and Flask-RESTful say so of each ``abort`` too, which they answer themselves.
    """
    if _observed(_request()) is None:
        return
    is_answer = isinstance(exception, HTTPException) and not app.trap_http_exception(exception)
    if not is_answer:
        current_audit().failed(exception)
    _note_who(is_refused=False)


def _note_who(*, is_refused: bool) -> None:
    audit, exchange = current_audit(), exchange_at_hand()
    if audit.principal is None:
        audit.principal = _user()
        if exchange is not None and audit.principal is None and not is_refused and _is_remembered():
            exchange.user = FAILED  # unless ``identify`` knows better


def _known_user() -> object:
    user = _user()
    return FAILED if user is None and _is_remembered() else user


def _is_remembered() -> bool:
    """Say whether Flask-Login's cookie says who it is, and nobody asked: loading the user would begin a session."""
    if not hasattr(flask.current_app, "login_manager") or g.get("_login_user") is not None:
        return False
    return flask.current_app.config.get("REMEMBER_COOKIE_NAME", _REMEMBER_COOKIE) in flask.request.cookies


def _user() -> object:
    """Return who is signed in, as far as the app has found out: looking it up ourselves would change its answers."""
    own = _behind(g)
    user = own.get("_login_user")
    if user is None:
        said = plain_principal(own.get("user"))
        return said or _owner_of_session() or _owner_of_credentials(own.get("flask_httpauth_user"))
    return _described(user, in_session=flask.session.accessed and "_user_id" in flask.session) or own.get(_SIGNED_OUT)


def _owner_of_session() -> object:
    """Return whose session of Flask-Login this is where nobody asked: its key is what ``get_id()`` said at sign-in.

    Flask-Login itself looks into the session after each request, so that this adds no ``Vary: Cookie``; loading the
    user might change the session.
    """
    try:
        key = flask.session.get("_user_id") if hasattr(flask.current_app, "login_manager") else None
    except Exception:  # a store of sessions that is away; who it is stays a defect of the record
        LOGGER.exception("audit: the session of Flask-Login cannot be read")
        return FAILED
    return {"id": key, "auth": "session"} if key is not None else None


def _owner_of_credentials(said: object) -> object:
    """Return whom Flask-HTTPAuth or Flask-JWT-Extended found, which keep tokens in cookies too; None for nobody."""
    tokens = sys.modules.get("flask_jwt_extended")
    if said is not None or tokens is None:
        return plain_principal(said)
    try:
        return plain_principal(tokens.get_jwt_identity())
    except RuntimeError:  # no view asked for a token
        return None
    except Exception:  # an extension's own ways
        LOGGER.exception("audit: the identity of a token cannot be read")
        return FAILED


def _described(user: Any, *, in_session: bool) -> object:  # noqa: ANN401 - an app's own class
    """Return a user of Flask-Login as the principal; None for nobody."""
    try:
        if not user.is_authenticated:
            return None
        return {"id": user.get_id(), "auth": "session" if in_session else None}
    except Exception:  # an app's own user object may raise anything; who it is stays a defect of the record
        LOGGER.exception("audit: the user of Flask-Login cannot be read")
        return FAILED


def entry_points(app: Flask) -> Iterator[EntryPoint]:
    """Yield every rule of an app's URL map with each of its methods; those that Flask adds itself are left out."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        methods = (rule.methods or set()) - {"OPTIONS"}
        for method in sorted(methods - ({"HEAD"} if "GET" in methods else set())):
            rules = rules_for(view, method)
            exemption = rules.exemption if rules is not None else None
            yield EntryPoint("http", method, rule.rule, rule.endpoint, exemption)
