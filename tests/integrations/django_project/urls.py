"""Views of the test project, sync and async."""

import asyncio
import io

from django.contrib import admin
from django.contrib.auth import alogout, authenticate, login, logout
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.utils.functional import SimpleLazyObject
from django.views.decorators.csrf import csrf_exempt
from rest_framework.authentication import BasicAuthentication, TokenAuthentication
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from audit_middleware import audited, current_audit


def hello(request):
    return HttpResponse(b"hello")


def order(request, pk):
    return HttpResponse(str(pk))


def refund(request, pk):
    audit = current_audit()
    audit.principal, audit.action, audit.resource = "carol", "orders.refund", ("order", pk)
    return HttpResponse(b"ok")


def whoami(request):
    return HttpResponse(request.user.get_username())


def broken(request):
    raise KeyError("secret")


@audited(exempt="asked twice a second")
def health(request):
    return HttpResponse(b"fine")


def denied(request):
    raise PermissionDenied


def missing(request):
    raise Http404


def stream(request):
    def lines():
        for number in range(3):
            current_audit().details["lines"] = number + 1
            yield f"{number}\n"

    return StreamingHttpResponse(lines())


def broken_stream(request):
    def lines():
        yield "a"
        raise KeyError

    return StreamingHttpResponse(lines())


def file(request):
    return FileResponse(io.BytesIO(b"x" * 10_000), filename="report.bin")


async def async_hello(request):
    await asyncio.sleep(0)
    current_audit().details["thread"] = "loop"
    return HttpResponse(b"hello")


async def async_stream(request):
    async def lines():
        for number in range(3):
            await asyncio.sleep(0)
            current_audit().details["lines"] = number + 1
            yield f"{number}\n"

    return StreamingHttpResponse(lines())


async def endless(request):
    async def lines():
        while True:
            yield "x"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(lines())


@api_view(["GET"])
@authentication_classes([BasicAuthentication, TokenAuthentication])
@permission_classes([IsAuthenticated])
def api(request, pk):
    return Response({"pk": pk})


def shows_arguments(request, *arguments, **named):
    return HttpResponse(repr((arguments, named)))


@csrf_exempt
def sign_in(request):
    authenticate(request, username=request.POST["username"], password=request.POST["password"])
    return HttpResponse(status=401)


def sign_in_without_request(request):
    authenticate(username="bob", password="wrong")
    return HttpResponse(b"no")


def sign_out(request):
    logout(request)
    return HttpResponse(b"bye")


async def async_sign_out(request):
    await alogout(request)
    return HttpResponse(b"bye")


def switch(request):
    logout(request)
    login(request, User.objects.get(username="bob"))
    return HttpResponse(b"hello bob")


class TokenView(APIView):
    authentication_classes = (TokenAuthentication,)

    def get(self, request):
        return Response({"user": request.user.get_username()})


def impersonated(request):
    request.real_user = request.user
    request.user = request.user.__class__(username="victim")
    return HttpResponse(b"x")


def impersonated_unasked(request):
    request.real_user, request.user = request.user, User(username="victim")
    return HttpResponse(b"x")


async def async_impersonated_unasked(request):
    return impersonated_unasked(request)


def lazily_signed_in(request):
    request.user = SimpleLazyObject(lambda: User(username="bearer"))
    return HttpResponse(request.user.get_username())


def conforming_order(request, order_id):
    audit = current_audit()
    audit.principal, audit.action, audit.resource = "alice", "orders.act", ("order", order_id)
    audit.details["cents"] = 1250
    return HttpResponse(b"order!")


def conforming_create(request):
    assert request.body
    return HttpResponse(status=204)


def conforming_stream(request):
    return StreamingHttpResponse(iter([b"a" * 10, b"b" * 10, b"c" * 10]))


conformance = [
    path("orders/<int:order_id>", conforming_order),
    path("orders", conforming_create),
    path("denied", denied),
    path("broken", broken),
    path("stream", conforming_stream),
]
urlpatterns = [
    path("conformance/", include(conformance)),
    path("shop/", include("tests.integrations.django_project.shop.urls")),
    path("rules/", include("tests.integrations.django_project.rules")),
    path("admin/", admin.site.urls),
    path("hello/", hello),
    path("orders/<int:pk>/", order),
    path("orders/<int:pk>/refund", refund),
    path("v1/", include([re_path(r"^items/(?P<pk>[0-9]+)/$", order), path("whoami", whoami)])),
    path("broken", broken),
    path("denied", denied),
    path("missing", missing),
    path("stream", stream),
    path("broken-stream", broken_stream),
    path("file", file),
    path("async-hello", async_hello),
    path("async-stream", async_stream),
    path("endless", endless),
    path("api/<int:pk>", api),
    path("impersonated", impersonated),
    path("impersonated-unasked", impersonated_unasked),
    path("async-impersonated-unasked", async_impersonated_unasked),
    path("lazily-signed-in", lazily_signed_in),
    path("hijack/", include("hijack.urls")),
    path("health", health),
    path("sign-in", sign_in),
    path("sign-in-without-request", sign_in_without_request),
    path("sign-out", sign_out),
    path("async-sign-out", async_sign_out),
    path("switch", switch),
    path("token", TokenView.as_view()),
    re_path(r"^un/(\d+)/$", shows_arguments),
    re_path(r"^two/(\d+)/((?:a|b)+)/$", shows_arguments),
    re_path(r"^mixed/(\w+)/(?P<pk>\d+)/$", shows_arguments),
    re_path(r"^outer/(\d+)/", include([re_path(r"^inner/(\w+)$", shows_arguments)])),
    re_path(r"^named/(?P<pk>\d+)/", include([re_path(r"^inner/(\w+)$", shows_arguments)])),
    path("extra/", include([re_path(r"^(\d+)/[(]$", shows_arguments)]), {"kind": "x"}),
]
