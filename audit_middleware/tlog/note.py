"""C2SP signed-note with Ed25519 signatures (signature type 0x01): text, an empty line, signature lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit_middleware.errors import BadSignature, ConfigurationError
from audit_middleware.tlog.encoding import from_base64, to_base64

MAX_NOTE = 256 * 1024
"""Bytes of a note; a post-quantum signature of a witness takes 5,000 of them."""
MAX_SIGNATURES = 64

_LOG_NAME = re.compile(r"[!-*\-.-~]{1,255}")
_ED25519 = b"\x01"
_KEY_SIZE = 32
_ID_SIZE = 4
_DASH = "— "
_PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under; written as a *vkey*.

    Raises:
        ConfigurationError: the name is empty or has a space or plus, or the key is not 32 bytes.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.public) != _KEY_SIZE:
            raise ConfigurationError(f"the public key of {self.name} is not {_KEY_SIZE} bytes")

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Return the key that ``name+id+base64(0x01 || public key)`` encodes.

        Raises:
            ConfigurationError: malformed, another signature type, or an id that is not this key's.
        """
        verifier = cls(*_parse_key(vkey.strip(), "verifier key"))
        if verifier.vkey != vkey.strip():
            raise ConfigurationError(f"the verifier key of {verifier.name} does not match its own key id")
        return verifier

    @property
    def vkey(self) -> str:
        """The key as text, to hand to whoever verifies."""
        return f"{self.name}+{self.key_id.hex()}+{to_base64(_ED25519 + self.public)}"

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand for the key in a signature line; an identifier, not a fingerprint."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_SIZE]

    def verify_signature(self, text: bytes, signature: bytes) -> None:
        """Check one Ed25519 signature.

        Raises:
            BadSignature: it is not this key's over ``text``.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except (InvalidSignature, ValueError) as error:
            raise BadSignature(f"the signature of {self.name} does not match the note") from error


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and the name it signs under. Its ``repr`` does not show the key."""

    name: str
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.seed) != _KEY_SIZE:
            raise ConfigurationError(f"the signing key of {self.name} is not {_KEY_SIZE} bytes")

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Return a new random key."""
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def parse(cls, encoded: str) -> Signer:
        """Return the key that ``PRIVATE+KEY+name+id+base64(0x01 || seed)`` encodes.

        Raises:
            ConfigurationError: malformed, another signature type, or an id that is not this key's.
        """
        text = encoded.strip()
        if not text.startswith(_PRIVATE):
            raise ConfigurationError(f"a signing key begins with {_PRIVATE}")
        signer = cls(*_parse_key(text.removeprefix(_PRIVATE), "signing key"))
        if signer.encoded != text:
            raise ConfigurationError(f"the signing key of {signer.name} does not match its own key id")
        return signer

    @property
    def encoded(self) -> str:
        """The private key as text. A secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id.hex()}+{to_base64(_ED25519 + self.seed)}"

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self._private.public_key().public_bytes_raw())

    def signature_line(self, text: bytes) -> str:
        """Return the signature line over ``text``, with its newline; equal texts give equal lines."""
        return f"{_DASH}{self.name} {to_base64(self.verifier.key_id + self._private.sign(text))}\n"

    @property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def sign(text: str, *signers: Signer) -> bytes:
    """Return the note with this text, which ends with a newline, signed by every signer in turn.

    Raises:
        BadSignature: the text cannot be a note's, or nobody signs.
    """
    body = _encode_text(text)
    if not signers:
        raise BadSignature("a note needs a signature")
    return body + b"\n" + "".join(signer.signature_line(body) for signer in signers).encode()


def open_note(note: bytes, verifiers: Iterable[Verifier]) -> str:
    """Return the text of a note that at least one of ``verifiers`` signed.

    Signatures of unknown keys are ignored; a bad one of a known key condemns the note.

    Raises:
        BadSignature: malformed, too long, no signature of a known key, or a bad one.
    """
    text, lines = _split(note)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    signed = False
    for line in lines:
        verifier = known.get((line.name, line.key_id))
        if verifier is not None:
            verifier.verify_signature(text.encode(), line.signature)
            signed = True
    if not signed:
        names = ", ".join(sorted({line.name for line in lines}))
        raise BadSignature(f"no signature of a trusted key on this note; it was signed by {names}")
    return text


class _Line(NamedTuple):
    name: str
    key_id: bytes
    signature: bytes


def _split(note: bytes) -> tuple[str, list[_Line]]:
    """Return text and signature lines; the last empty line stands between them."""
    if len(note) > MAX_NOTE:
        raise BadSignature(f"a note is at most {MAX_NOTE} bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise BadSignature("a note is UTF-8") from error
    body, separator, signatures = whole.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise BadSignature("a note is text, an empty line and signature lines")
    _encode_text(body + "\n")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise BadSignature(f"a note has at most {MAX_SIGNATURES} signatures")
    return body + "\n", [_parse_line(line) for line in lines]


def _parse_line(line: str) -> _Line:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    data = from_base64(encoded)
    if not line.startswith(_DASH) or not is_key_name(name) or data is None or len(data) <= _ID_SIZE:
        raise BadSignature("a signature line is malformed")
    return _Line(name, data[:_ID_SIZE], data[_ID_SIZE:])


def _encode_text(text: str) -> bytes:
    if not text.endswith("\n") or any(char < " " and char != "\n" for char in text):
        raise BadSignature("the text of a note has no control characters and ends with a newline")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadSignature("the text of a note is UTF-8") from error


def is_key_name(name: str) -> bool:
    """Return whether ``name`` can name a key: not empty, no space, no plus, no control character."""
    return bool(name) and not any(char.isspace() or char == "+" or char < " " for char in name)


def is_log_name(name: str) -> bool:
    """Return whether ``name`` can name a log of ours: printable ASCII, no space, plus or comma, at most 255 characters.

    Narrower than `is_key_name`, because the name of a log travels in a header, in a list.
    """
    return _LOG_NAME.fullmatch(name) is not None


def _require_name(name: str) -> None:
    try:
        encodable = bool(name.encode())
    except UnicodeEncodeError:
        encodable = False
    if not encodable or not is_key_name(name):
        raise ConfigurationError(f"{name!r} cannot name a key: no spaces, no plus, not empty")


def _parse_key(text: str, what: str) -> tuple[str, bytes]:
    """Return name and 32 bytes of ``name+id+base64``; the caller checks the id."""
    # the last part is base64, which has plus signs of its own
    name, _, rest = text.partition("+")
    _, _, encoded = rest.partition("+")
    data = from_base64(encoded)
    if data is None or len(data) != 1 + _KEY_SIZE or data[:1] != _ED25519:
        raise ConfigurationError(f"not an Ed25519 {what}: expected name+id+base64")
    return name, data[1:]
