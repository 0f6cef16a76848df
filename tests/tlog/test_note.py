"""C2SP signed-note: the specification's own vectors, strict parsing, known and unknown keys."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import BadSignature, ConfigurationError
from audit_middleware.tlog import note
from audit_middleware.tlog.note import Signer, Verifier, open_note, sign

# c2sp.org/signed-note, section "Example"
VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1E"
    "RYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()

ALICE = Signer("alice.example/log", bytes(32))
BOB = Signer("bob.example/witness", bytes([7]) * 32)
TEXT = "first\n\nthird\n"


def test_the_note_of_the_specification_opens():
    assert open_note(NOTE, [Verifier.parse(VKEY)]) == "This is an example message.\n"
    assert Verifier.parse(VKEY).vkey == VKEY


@pytest.mark.parametrize("at", range(len(NOTE)))
def test_no_changed_byte_of_the_specification_s_note_passes(at):
    changed = NOTE[:at] + bytes([NOTE[at] ^ 1]) + NOTE[at + 1 :]
    with pytest.raises(BadSignature):
        open_note(changed, [Verifier.parse(VKEY)])


def test_a_text_with_empty_lines_is_split_at_the_last_one():
    assert open_note(sign(TEXT, ALICE), [ALICE.verifier]) == TEXT


def test_keys_come_back_from_their_encodings():
    signer = Signer.generate("new.example")
    assert Signer.parse(signer.encoded) == signer
    assert Verifier.parse(signer.verifier.vkey) == signer.verifier
    assert signer.encoded.startswith("PRIVATE+KEY+new.example+")


def test_a_signer_does_not_show_its_key():
    assert "seed" not in repr(ALICE)
    assert base64.b64encode(ALICE.seed).decode() not in repr(ALICE)


def test_equal_texts_are_signed_with_equal_bytes():
    assert sign(TEXT, ALICE, BOB) == sign(TEXT, ALICE, BOB)


def test_signatures_of_unknown_keys_are_ignored():
    both = sign(TEXT, BOB, ALICE)
    assert open_note(both, [ALICE.verifier]) == TEXT
    assert open_note(both, [ALICE.verifier, BOB.verifier]) == TEXT
    namesake = Signer(ALICE.name, bytes([9]) * 32)
    assert open_note(sign(TEXT, namesake, ALICE), [ALICE.verifier]) == TEXT


def test_a_note_that_only_unknown_keys_signed_is_refused():
    with pytest.raises(BadSignature, match=r"bob\.example/witness"):
        open_note(sign(TEXT, BOB), [ALICE.verifier])
    with pytest.raises(BadSignature):
        open_note(sign(TEXT, ALICE), [])


def test_a_bad_signature_of_a_known_key_condemns_a_note_that_another_known_key_signed():
    good, bad = sign(TEXT, ALICE), sign("other\n", BOB)
    mixed = good + bad.rpartition(b"\n\n")[2]
    assert open_note(mixed, [ALICE.verifier]) == TEXT
    with pytest.raises(BadSignature, match=r"bob\.example/witness"):
        open_note(mixed, [ALICE.verifier, BOB.verifier])


def test_sixteen_signatures_are_read_and_a_thousand_are_not():
    signers = [Signer(f"witness{number}.example", bytes([number]) * 32) for number in range(16)]
    assert open_note(sign(TEXT, *signers), [signers[15].verifier]) == TEXT
    line = sign(TEXT, ALICE).rpartition(b"\n\n")[2]
    with pytest.raises(BadSignature, match="at most"):
        open_note(b"x\n\n" + line * 1000, [ALICE.verifier])
    with pytest.raises(BadSignature, match="at most"):
        open_note(b"x" * note.MAX_NOTE + b"\n\n" + line, [ALICE.verifier])


SIGNATURE = base64.b64encode(b"keyid and signature").decode()


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        f"text\n— name {SIGNATURE}\n".encode(),
        f"text\n\n— name {SIGNATURE}".encode(),
        f"text\n\n- name {SIGNATURE}\n".encode(),
        f"text\n\n—  {SIGNATURE}\n".encode(),
        f"text\n\n— na+me {SIGNATURE}\n".encode(),
        f"text\n\n— na\u2003me {SIGNATURE}\n".encode(),
        f"text\n\n— name {SIGNATURE} \n".encode(),
        f"text\n\n— name  {SIGNATURE}\n".encode(),
        f"text\n\n— name {SIGNATURE[:-1]}\n".encode(),
        f"text\n\n— name {SIGNATURE}\n— name\n".encode(),
        "text\n\n— name AAAAAA==\n".encode(),
        f"te\txt\n\n— name {SIGNATURE}\n".encode(),
        f"te\rxt\n\n— name {SIGNATURE}\r\n".encode(),
        b"te\xffxt\n\n" + sign(TEXT, ALICE).rpartition(b"\n\n")[2],
    ],
)
def test_a_malformed_note_is_refused(malformed):
    with pytest.raises(BadSignature):
        open_note(malformed, [ALICE.verifier])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_error(data):
    with pytest.raises(BadSignature):
        open_note(data, [ALICE.verifier])


@given(st.text(max_size=200))
def test_any_text_is_signed_and_reads_back_or_is_refused_with_our_error(text):
    try:
        signed = sign(text + "\n", ALICE)
    except BadSignature:
        return
    assert open_note(signed, [ALICE.verifier]) == text + "\n"


@pytest.mark.parametrize("text", ["no newline", "", "tab\t\n", "lone \ud800\n"])
def test_a_text_that_no_note_can_hold_is_not_signed(text):
    with pytest.raises(BadSignature):
        sign(text, ALICE)


def test_a_note_needs_a_signer():
    with pytest.raises(BadSignature):
        sign(TEXT)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "tab\t", "\u00a0", "lone\ud800", "new\nline", "nul\x00"])
def test_a_name_that_no_note_can_hold_names_no_key(name):
    with pytest.raises(ConfigurationError):
        Signer(name, bytes(32))
    with pytest.raises(ConfigurationError):
        Verifier(name, bytes(32))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "example.com/foo",
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("foo", "bar"),
        VKEY[:-1],
        VKEY.replace("+Ae", "+BO"),
        "x+00000000+" + base64.b64encode(b"\x01short").decode(),
    ],
)
def test_a_damaged_verifier_key_is_refused(vkey):
    with pytest.raises(ConfigurationError):
        Verifier.parse(vkey)


@given(st.text(max_size=100))
def test_any_text_as_key_is_refused_with_our_error(text):
    for parse in (Verifier.parse, Signer.parse):
        with pytest.raises(ConfigurationError):
            parse(text)


def test_a_verifier_key_is_no_signing_key():
    with pytest.raises(ConfigurationError, match=r"PRIVATE\+KEY"):
        Signer.parse(VKEY)
    with pytest.raises(ConfigurationError, match="key id"):
        Signer.parse("PRIVATE+KEY+" + VKEY)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_is_32_bytes(size):
    with pytest.raises(ConfigurationError):
        Signer("x", bytes(size))
    with pytest.raises(ConfigurationError):
        Verifier("x", bytes(size))
