"""What the admin shows."""

from django.contrib import admin

from tests.integrations.django_project.shop.models import Customer


@admin.register(Customer)
class CustomerAdmin(admin.ModelAdmin):
    fields = ("email",)
