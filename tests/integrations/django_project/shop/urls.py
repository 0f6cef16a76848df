"""Views that read and change rows."""

import asyncio

from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from tests.integrations.django_project.shop.models import Customer


def reads(request):
    return HttpResponse(Customer.objects.get(id=1).email)


def asks_first(request):
    return HttpResponse(request.user.get_username() + Customer.objects.get(id=1).email)


def reads_users(request):
    return HttpResponse(User.objects.get(username="bob").get_username())


async def reads_async(request):
    user = await request.auser()
    await asyncio.sleep(0.01)
    found = [customer.email async for customer in Customer.objects.filter(id=1)]
    return HttpResponse(user.get_username() + found[0])


def streams(request):
    request.user.get_username()
    return StreamingHttpResponse(f"{key}\n" for key in Customer.objects.values_list("pk", flat=True).iterator())


@csrf_exempt
def changes(request):
    with transaction.atomic():
        Customer.objects.filter(id=1).update(email="changed")
    return HttpResponse(b"done")


urlpatterns = [
    path("reads", reads),
    path("asks-first", asks_first),
    path("reads-users", reads_users),
    path("reads-async", reads_async),
    path("streams", streams),
    path("changes", changes),
]
