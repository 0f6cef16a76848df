"""Slack's incoming webhooks: https://api.slack.com/messaging/webhooks."""

from __future__ import annotations

from typing import Final

import msgspec

from audit_middleware.collector.alerts.door import Door
from audit_middleware.collector.alerts.message import Message, headline, lines

LONGEST: Final = 3500
"""Letters of the text: Slack cuts a message at 4000."""

_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"})


class Slack:
    """A `Sender`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def send(self, message: Message) -> str:
        """Deliver; Slack confirms with the text ``ok``."""
        reply = self._door.request("POST", msgspec.json.encode(body_of(message)), {"content-type": "application/json"})
        if reply.body.strip() != b"ok":
            raise self._door.failed(f"answers {reply.status} and not ok: {reply.text}")
        return f"{reply.status} ok"

    def close(self) -> None:
        """Close the connections."""
        self._door.close()


def body_of(message: Message) -> dict[str, str]:
    """Return what is sent; nothing in it can name a channel, a user or a link."""
    text = "\n".join(lines(message)).translate(_ESCAPES)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}\n..."
    return {"text": f"*{headline(message).translate(_ESCAPES).replace('*', '')}*\n```{cut}```"}
