"""Mail: a message for people, by SMTP (RFC 5321) under TLS (RFC 3207, RFC 8314)."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate

from audit_middleware.collector.alerts.door import AlertFailed
from audit_middleware.collector.alerts.message import Message, headline, lines, plain
from audit_middleware.collector.alerts.settings import EmailAlerts


class Mail:
    """A `Sender`. A mail that is sent again has the same Message-ID."""

    def __init__(self, settings: EmailAlerts, password: str | None) -> None:
        self._settings = settings
        self._password = password

    def send(self, message: Message) -> str:
        """Deliver to every recipient; all of them have to be taken."""
        mail = mail_of(message, self._settings)
        try:
            with self._connected() as server:
                if self._settings.user and self._password is not None:
                    server.login(self._settings.user, self._password)
                refused = server.send_message(mail)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise self._failed(error) from None
        if refused:
            raise AlertFailed(f"{self._place} refuses {len(refused)} of {len(self._settings.to)} recipients")
        return f"accepted for {len(self._settings.to)} recipients"

    def close(self) -> None:
        """There is nothing: each mail has its own connection."""

    @property
    def _place(self) -> str:
        return f"smtp://{self._settings.host}:{self._settings.port}"

    def _connected(self) -> smtplib.SMTP:
        settings = self._settings
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.security == "tls":
            return smtplib.SMTP_SSL(settings.host, settings.port, timeout=settings.timeout_seconds, context=context)
        server = smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_seconds)
        if settings.security == "starttls":
            try:
                server.starttls(context=context)  # raises when the server offers none: never without
            except BaseException:
                server.close()
                raise
        return server

    def _failed(self, error: Exception) -> AlertFailed:
        said = f"{type(error).__name__}: {error}"
        if self._password is not None:
            said = said.replace(self._password, "***")
        return AlertFailed(f"{self._place} {plain(said)}")


def mail_of(message: Message, settings: EmailAlerts) -> EmailMessage:
    """Return the mail of a message."""
    mail = EmailMessage()
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail["Subject"] = headline(message)
    mail["Date"] = formatdate(message.now)
    mail["Message-ID"] = f"<{message.id}@audit-ready.invalid>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers of machines
    mail.set_content("\n".join(lines(message)) + "\n")
    return mail
