"""The methods that a view of Django takes, as its decorators and its class say."""

import types
from functools import partial


def test_decorators_that_are_not_what_django_documents_leave_any_method(django_project):
    """What is listed as taking any method is covered by each of them: no method of a view is left out."""
    from django.views.decorators.http import require_GET, require_http_methods

    from audit_integrations.django.routes import _methods_of

    def other(request_method_list):
        def view(request):
            return request_method_list

        return view

    def looped(request):
        return None

    looped.__wrapped__ = looped
    told = require_GET(looped)
    cells = tuple(types.CellType() for _ in told.__closure__)
    empty = types.FunctionType(told.__code__, told.__globals__, "inner", None, cells)
    for view in (other(["GET"]), looped, empty, require_http_methods("GET")(looped), require_http_methods([7])(looped)):
        assert _methods_of(view) == ["*"], view
    assert _methods_of(require_http_methods(["PUT", "PUT", "GET", "HEAD"])(looped)) == ["PUT", "GET"]
    assert _methods_of(require_http_methods(["PUT", "GET"])(require_GET(looped))) == ["GET"]


def test_decorators_around_a_class_of_django_narrow_what_it_takes(django_project):
    from django.views import View
    from django.views.decorators.http import require_POST

    from audit_integrations.django.routes import _methods_of

    class Both(View):
        def get(self, request):
            return None

        post = get

    assert _methods_of(require_POST(Both.as_view())) == ["POST"]
    assert _methods_of(Both.as_view(http_method_names=["get", "options"])) == ["GET"]


def test_decorators_on_the_methods_of_a_class_of_django_narrow_what_it_takes(django_project):
    from django.http import HttpResponse
    from django.test import RequestFactory
    from django.utils.decorators import method_decorator
    from django.views import View
    from django.views.decorators.csrf import csrf_exempt
    from django.views.decorators.http import require_GET, require_http_methods, require_POST

    from audit_integrations.django.routes import _methods_of

    class Every(View):
        def get(self, request):
            return HttpResponse("x")

        post = put = delete = get

    def decorated(*decorators, name="dispatch", base=Every):
        made = type("Decorated", (base,), {})
        for each in decorators:
            made = method_decorator(each, name=name)(made)
        return made

    class Overrides(decorated(require_POST)):
        def dispatch(self, request):
            return View.dispatch(self, request)

    class Own(Every):
        @method_decorator(require_POST)
        def dispatch(self, request):
            return super().dispatch(request)

    classes = {
        decorated(require_POST): ["POST"],
        decorated([csrf_exempt, require_POST]): ["POST"],
        decorated((require_http_methods(("PUT", "POST")),), csrf_exempt): ["POST", "PUT"],
        decorated(require_http_methods(["PUT", "POST"]), require_http_methods(["PUT", "GET"])): ["PUT"],
        decorated(require_GET, name="post"): ["GET", "PUT", "DELETE"],
        type("Inherits", (decorated(require_POST),), {}): ["POST"],
        Overrides: ["GET", "POST", "PUT", "DELETE"],
        Own: ["POST"],
        decorated(partial(require_POST)): ["GET", "POST", "PUT", "DELETE"],
    }
    for view_class, methods in classes.items():
        assert _methods_of(view_class.as_view()) == methods
    for view_class, methods in list(classes.items())[:-1]:  # the last one cannot be read
        view = view_class.as_view()
        requests = [RequestFactory().generic(name, "/") for name in ("GET", "POST", "PUT", "DELETE")]
        assert [each.method for each in requests if view(each).status_code == 200] == methods


def test_the_methods_of_a_django_view_are_those_it_takes(django_project):
    from audit_integrations.django.routes import entry_points

    points = list(entry_points("tests.integrations.django_project.rules"))
    methods = {}
    for point in points:
        methods.setdefault(point.route, []).append(point.method)
    assert methods["/strict"] == ["GET", "POST"]
    assert methods["/safe"] == ["GET"]
    assert methods["/ordinary"] == ["*"]
    assert methods["/lenient"] == methods["/orders"] == ["GET", "POST"]
    assert methods["/api"] == ["POST"]
    assert {(p.route, p.method) for p in points if p.exemption} == {("/orders", "POST"), ("/exempt", "GET")}
