"""Views as projects compose them: in every language, for each tenant, in Django Ninja, behind ``method_decorator``."""

from django.conf.urls.i18n import i18n_patterns
from django.http import HttpResponse
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.utils.deprecation import MiddlewareMixin
from django.views import View
from django.views.decorators.cache import cache_page
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import TemplateView
from ninja import NinjaAPI, Router
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from audit_middleware import audited
from tests.integrations import test_view_policy as claims

ORDER = {"resource": "order:{pk}", "query": ["page"]}


def shown(*_, **__):
    return HttpResponse(claims.ordinary())


@csrf_exempt
@audited("orders.note", on_failure="allow")
def lenient(request):
    return shown()


@method_decorator(audited("orders.show", **ORDER), name="dispatch")
class Show(TemplateView):
    def render_to_response(self, context, **_):
        return HttpResponse("shown")


class Change(View):
    @method_decorator(audited("orders.change", **ORDER))
    def get(self, request, pk):
        return HttpResponse("changed")


class Orders(ViewSet):
    @method_decorator(audited("orders.read", **ORDER))
    def retrieve(self, request, *arguments, **named):
        return Response({})


class Health(View):
    @audited(exempt="asked twice a second")
    def get(self, request):
        return HttpResponse("fine")


api, router = NinjaAPI(), Router()


@api.get("/orders/{pk}")
@audited("ninja.read", **ORDER)
def read(request, pk: int):
    return {"pk": pk}


@api.post("/orders/{pk}")
@audited("ninja.write", on_failure="allow")
def write(request, pk: int):
    return claims.ordinary()


@router.get("/health")
@audited(exempt="asked twice a second")
def health(request):
    return "fine"


@router.get("/later")
@audited("ninja.later", resource="order:1")
async def later(request):
    return "later"


api.add_router("/inner", router)


class Tenants(MiddlewareMixin):
    """Gives each tenant URLs of its own, as django-hosts and django-tenants do."""

    def process_request(self, request):
        if "X-Tenant" in request.headers:
            request.urlconf = "tests.integrations.django_project.composed_tenant"


urlpatterns = [
    path("show/<int:pk>", Show.as_view()),
    path("change/<int:pk>", Change.as_view()),
    path("rest/<int:pk>", Orders.as_view({"get": "retrieve"})),
    path("health", Health.as_view()),
    path("ninja/", api.urls),
    path("lenient", lenient),
    path("cached/<int:pk>", cache_page(60)(audited("orders.cached", on_failure="deny", **ORDER)(shown))),
    re_path(r"^files/(?P<name>[a-z]+)\.(?P<kind>[a-z]+)$", shown),
    *i18n_patterns(
        path("orders/<int:pk>/", shown),
        path("in/", include([path("lenient", lenient)])),
        re_path(r"^raw/(\d+)$", shown),
    ),
]
