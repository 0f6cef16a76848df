"""The URLs of one tenant."""

from django.conf.urls.i18n import i18n_patterns
from django.urls import path

from tests.integrations.django_project.composed import shown

urlpatterns = [
    path("lenient", shown),
    *i18n_patterns(path("orders/<int:pk>/", shown), prefix_default_language=False),
]
