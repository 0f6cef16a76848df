"""Seals on what the index says of streams: a number changed there would make the collector refuse genuine lines."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest, digest
from struct import Struct
from typing import Any, Final

import msgspec

from audit_middleware.collector.streams import StreamState
from audit_middleware.sealing.keys import Keyring

_PLACE: Final = Struct(">qqq")
_encode: Final = msgspec.json.Encoder().encode


class IndexSeal:
    """Seals rows with a key that is derived from the seed that signs the logs. It binds a row, not its age."""

    def __init__(self, seed: bytes) -> None:
        self._key = digest(seed, b"audit-ready/index/v2", "sha256")
        self._place_key = digest(seed, b"audit-ready/index/place/v1", "sha256")

    def stream(self, state: StreamState) -> bytes:
        """Return the seal of a stream's state."""
        return self._seal("stream", *state[:-1], int(state.closed))

    def aside(self, stream: str, seq: int, leaf: str) -> bytes:
        """Return the seal of a place taken by a line in quarantine."""
        return self._seal("aside", stream, seq, leaf)

    def place(self, stream: int, seq: int, id_: int, leaf: bytes) -> bytes:
        """Return the seal of who has a place: stream number, sequence, entry id and leaf hash."""
        return digest(self._place_key, _PLACE.pack(stream, seq, id_) + leaf, "sha256")

    def presence(self, collector: str, at: int, *, is_closed: bool) -> bytes:
        """Return the seal of when a collector was there, in microseconds of its own clock."""
        return self._seal("presence", collector, at, int(is_closed))

    def keyring(self, keyring: Keyring) -> bytes:
        """Return what stands for a set of application keys and tells nothing of them."""
        keys = [[kid, sha256(key).hexdigest()] for kid, key in sorted(keyring.keys.items())]
        return self._seal("keyring", keys)

    def _seal(self, *values: Any) -> bytes:  # noqa: ANN401 - whatever a row holds
        return digest(self._key, _encode(values), "sha256")


def is_sealed(seal: object, expected: bytes) -> bool:
    """Compare in constant time; what an editor left in the column may be of any type."""
    return isinstance(seal, bytes) and compare_digest(seal, expected)
