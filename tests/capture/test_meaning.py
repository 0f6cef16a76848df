"""What a route means: the resource of every spelling frameworks have for parameters."""

import pytest

from audit_middleware.capture.meaning import resource_of
from audit_middleware.plain import Plainer
from audit_middleware.record import Resource


@pytest.mark.parametrize(
    ("route", "params", "expected"),
    [
        ("/orders/{id}", {"id": "7"}, ("orders", "7")),
        ("/orders/{id:int}", {"id": 7}, ("orders", "7")),
        ("/api/{v}/z/{q:path}", {"v": "1", "q": "a/b"}, ("api/z", "1/a/b")),
        ("/orders/<int:id>", {"id": 7}, ("orders", "7")),
        ("/orders/<id>", {"id": "7"}, ("orders", "7")),
        ("/wiki/<id:re:[a-z]+>", {"id": "x"}, ("wiki", "x")),
        ("/any/<any(a, b):kind>", {"kind": "a"}, ("any", "a")),
        ("/", {}, ("root", "*")),
        ("/orders", {}, ("orders", "*")),
    ],
)
def test_every_spelling_of_a_parameter_is_read(route, params, expected):
    notes = Plainer()
    assert resource_of(route, params, "/x", notes) == Resource(*expected)
    assert notes.defects == []


def test_a_parameter_nobody_knows_is_a_defect():
    notes = Plainer()
    assert resource_of("/orders/{id}", None, "/elsewhere/7", notes) == Resource("orders", "unknown")
    assert notes.defects == ["resource.id"]
