"""The golden bytes of the wire format: a change of one byte anywhere fails here."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Ratchet, Sealer, SealVerifier, leaf_hash, parse_frame
from audit_middleware.sealing.text import b64url, unb64url

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "vectors.json").read_text())
KEYRING = Keyring({VECTORS["kid"]: unb64url(VECTORS["app_key_b64url"].encode())})
STREAM = unb64url(VECTORS["stream"].encode())


def make_lines() -> list[bytes]:
    """All 130 lines: the published ones verbatim in type, ts and rec, those between in the same pattern."""
    sealer = Sealer(KEYRING, STREAM)
    lines = []
    for seq in range(130):
        published = VECTORS["lines"].get(str(seq))
        if published:
            frame = parse_frame(published.encode())
            type_, ts, rec = frame.type.encode(), frame.ts.encode(), frame.rec
        else:
            type_, ts, rec = b"event", b"2026-11-23T07:00:%02d.%06dZ" % (seq % 60, seq), b'{"n":%d}' % seq
        lines.append(sealer.seal(type_, ts, rec))
        sealer.commit(lines[-1])
    return lines


LINES = make_lines()


def test_first_key_of_a_stream():
    assert KEYRING.stream_key("k1", STREAM).hex() == VECTORS["k0_hex"]


@pytest.mark.parametrize("seq", [int(seq) for seq in VECTORS["lines"]])
def test_sealed_line_is_byte_for_byte_the_vector(seq):
    assert LINES[seq].decode() == VECTORS["lines"][str(seq)]


@pytest.mark.parametrize("seq", [int(seq) for seq in VECTORS["leaf_hex"]])
def test_leaf_hash(seq):
    assert leaf_hash(LINES[seq]).hex() == VECTORS["leaf_hex"][str(seq)]


def test_all_130_lines():
    assert sha256(b"".join(line + b"\n" for line in LINES)).hexdigest() == VECTORS["all_130_lines_sha256"]


@pytest.mark.parametrize("seq", [int(seq) for seq in VECTORS["lines"]])
def test_vectors_verify(seq):
    line = VECTORS["lines"][str(seq)].encode()
    frame = parse_frame(line)
    SealVerifier(KEYRING).verify_seal(line, frame)
    assert (frame.kid, frame.stream, frame.seq) == ("k1", VECTORS["stream"], seq)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_mac_key_of_a_block(block):
    """The key shows in what it computes: compared against HMAC by the standard library."""
    import hmac

    mac = Ratchet(KEYRING.stream_key("k1", STREAM)).at(block).mac.copy()
    mac.update(b"anything")
    expected = hmac.digest(
        bytes.fromhex(VECTORS["mac_key_hex"][str(block)]), b"audit-middleware/line/v1\0anything", "sha256"
    )
    assert mac.finalize() == expected


def test_base64url_has_one_spelling():
    assert unb64url(b64url(STREAM)) == STREAM
    with pytest.raises(ValueError, match="canonical"):
        unb64url(b"AAECAwQFBgcICQoLDA0ODx")
