"""Views that carry rules of their own."""

from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_safe
from rest_framework.decorators import api_view
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from audit_middleware import audited
from tests.integrations import test_view_policy as claims

FIELDS = audited(body=["amount", "customer.id", "tags"])


def shown(function):
    return HttpResponse(function())


@method_decorator(csrf_exempt, name="dispatch")
class Lenient(View):
    def get(self, request):
        return shown(claims.ordinary)

    @audited(on_failure="allow")
    def post(self, request):
        return shown(claims.ordinary)


@csrf_exempt
@require_http_methods(["GET", "POST"])
@audited(on_failure="deny")
def strict(request):
    return shown(claims.ordinary)


@require_safe
def safe(request):
    return shown(claims.ordinary)


@csrf_exempt
def ordinary(request):
    return shown(claims.ordinary)


@csrf_exempt
@FIELDS
def raw(request):
    return HttpResponse(str(len(request.body)))


@csrf_exempt
@FIELDS
def form(request):
    return HttpResponse(request.POST["amount"])


@csrf_protect
@FIELDS
def csrf(request):
    return HttpResponse(get_token(request))


@api_view(["POST"])
@FIELDS
def api(request):
    return Response(request.data)


class Orders(ViewSet):
    def list(self, request):
        return Response([])

    @audited(exempt="synthetic", until="2030-01-01")
    def create(self, request):
        return Response({})


class Rest(ViewSet):
    def either(self, request):
        return shown(claims.ordinary)

    @audited(on_failure="deny")
    def strict(self, request):
        return shown(claims.ordinary)


@api_view(["GET", "POST"])
@audited(on_failure="allow")
def rest(request):
    return shown(claims.ordinary)


@api_view(["GET"])
@audited(exempt="synthetic", until="2030-01-01")
def exempt(request):
    return Response({})


urlpatterns = [
    path("strict", strict),
    path("lenient", Lenient.as_view()),
    path("ordinary", ordinary),
    path("safe", safe),
    path("raw", raw),
    path("form", form),
    path("csrf", csrf),
    path("api", api),
    path("rest/strict", Rest.as_view({"get": "strict", "post": "strict"})),
    path("rest/lenient", rest),
    path("rest/ordinary", Rest.as_view({"get": "either", "post": "either"})),
    path("exempt", exempt),
    path("orders", Orders.as_view({"get": "list", "post": "create"})),
]
