"""A sealed context is believed where it belongs, for as long as it may be, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import BadContext
from audit_middleware.record import Principal
from audit_middleware.sealing.context import MAX_CONTEXT, Context, open_context, seal_context
from audit_middleware.sealing.keys import new_key, parse_keys

RING = parse_keys(new_key("k.1") + "," + new_key("k.2"))
ALICE = Principal("alice", "user", "session", tenant="acme")
SEALED_AT = 1_800_000_000
CONTEXT = Context("task refund 7", SEALED_AT, "orders", "r.1", ALICE, "203.0.113.7", "a" * 32, "b" * 16)
TEXT = seal_context(CONTEXT, RING)


def opened(text=TEXT, ring=RING, purpose="task refund 7", now=SEALED_AT + 10, max_age=60):
    return open_context(text, ring, purpose=purpose, now=now, max_age=max_age)


def reason(**given):
    with pytest.raises(BadContext) as raised:
        opened(**given)
    return raised.value.reason


def test_what_was_sealed_is_what_is_opened_with_every_key_of_the_ring():
    assert opened() == CONTEXT
    older = parse_keys("k.1:" + new_key("x")[2:])
    assert opened(seal_context(CONTEXT, older), older) == CONTEXT


def test_a_context_is_worth_nothing_beside_something_else_or_at_another_time():
    assert reason(purpose="task refund 8") == "misplaced"
    assert reason(now=SEALED_AT + 61) == "expired"
    assert reason(now=SEALED_AT - 61) == "expired"
    assert reason(ring=parse_keys(new_key("other"))) == "unknown_key"
    assert reason(ring=parse_keys(new_key("k.2"))) == "forged"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "v1",
        "v2" + TEXT[2:],
        "v1.k.2..",
        "v1.k.2.e30.x",
        TEXT + "\u00e9",
        "x" * (MAX_CONTEXT + 1),
        "v1.k.2.{}.x",
    ],
)
def test_what_is_no_context_is_refused(text):
    assert reason(text=text) in {"malformed", "forged"}


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii"))
def test_no_letter_can_be_changed(at, letter):
    text = TEXT[:at] + letter + TEXT[at + 1 :]
    if text != TEXT:
        assert reason(text=text) in {"malformed", "forged", "unknown_key"}


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text):
    assert reason(text=text) in {"malformed", "forged", "unknown_key"}
