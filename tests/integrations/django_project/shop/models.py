"""Primary keys of every kind: made by the database, given, of several columns, inherited."""

import uuid

from django.contrib.auth.models import Group
from django.db import models


class Row(models.Model):
    class Meta:
        abstract = True

    def __str__(self):
        return str(self.pk)


class Unspeakable(str):
    __slots__ = ()

    def __str__(self):
        raise LookupError("secret")


class OddField(models.CharField):
    def from_db_value(self, value, *_):
        return Unspeakable(value) if value == "odd" else "\ud800" + value


class Customer(Row):
    email = models.CharField(max_length=99, default="secret@example.com")
    referrer = models.ForeignKey("self", models.SET_NULL, null=True)
    groups = models.ManyToManyField(Group)


class Favourite(Customer):
    class Meta:
        proxy = True


class Payment(Row):
    number = models.UUIDField(primary_key=True, default=uuid.uuid4)
    customer = models.ForeignKey(Customer, models.CASCADE)


class Line(Row):
    pk = models.CompositePrimaryKey("order", "position")
    order = models.CharField(max_length=9)
    position = models.IntegerField()
    text = models.CharField(max_length=9, default="secret")


class Blob(Row):
    digest = models.BinaryField(primary_key=True)


class Strange(Row):
    key = OddField(max_length=9, primary_key=True)


class Named(Row):
    key = models.CharField(max_length=99, primary_key=True)


class Person(Row):
    name = models.CharField(max_length=9, default="secret")


class Manager(Person):
    level = models.IntegerField(default=1)


class Product(Row):
    customer = models.ForeignKey(Customer, models.CASCADE, null=True)
    title = models.CharField(max_length=9, default="x")
