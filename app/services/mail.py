"""Sends mail by SMTP. Needs the extra `email`: see docs/extras.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import aiosmtplib

from plinth.errors import ExternalServiceError

__all__ = ["Mailer"]


@dataclass(frozen=True, slots=True)
class Mailer:
    """A mail server and the address that mails come from. Send from a job: a request should not wait for it."""

    host: str
    sender: str
    port: int = 587
    username: str | None = None
    password: str | None = None
    start_tls: bool | None = None
    """None: where the server offers it. True refuses a server that does not."""
    timeout: float = 10.0
    """Seconds for each step: connecting, a command, its answer."""

    async def send(self, to: str | Sequence[str], subject: str, text: str, *, message_id: str | None = None) -> None:
        """Send a mail of plain text.

        Give `message_id` where a job may send again after a crash: most servers drop the second one of an id.

        Raises:
            ExternalServiceError: the server is away, slow, or refuses the mail.
            ValueError: an address or the subject has a line break.
        """
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = to if isinstance(to, str) else ", ".join(to)
        message["Subject"] = subject
        message["Date"] = formatdate()
        message["Message-ID"] = message_id or make_msgid(domain=self.sender.rpartition("@")[2].strip("> "))
        message.set_content(text)
        try:
            await aiosmtplib.send(
                message,
                hostname=self.host,
                port=self.port,
                username=self.username,
                password=self.password,
                start_tls=self.start_tls,
                timeout=self.timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise ExternalServiceError("mail") from error
