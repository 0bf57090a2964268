"""Mail, against a server on this machine that takes it."""

import asyncio
import email
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message

import pytest

from app.services.mail import Mailer
from plinth.errors import ExternalServiceError


@dataclass
class Server:
    """As much of an SMTP server as a client needs."""

    port: int = 0
    refused: str = ""
    silent: bool = False
    recipients: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.silent:
            await reader.read()
            writer.close()
            return
        writer.write(b"220 here\r\n")
        while line := (await reader.readline()).decode().strip():
            command = line.split()[0].upper()
            if command == "RCPT" and self.refused in line and self.refused:
                writer.write(b"550 no such user\r\n")
                continue
            if command == "RCPT":
                self.recipients.append(line.partition("<")[2].partition(">")[0])
            if command == "DATA":
                writer.write(b"354 go on\r\n")
                self.messages.append(email.message_from_bytes(await reader.readuntil(b"\r\n.\r\n")))
            writer.write(b"221 bye\r\n" if command == "QUIT" else b"250 fine\r\n")
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()


def mailer(server: Server, timeout: float = 20) -> Mailer:
    return Mailer("127.0.0.1", "Shop <shop@example.com>", port=server.port, timeout=timeout)


async def test_a_mail_arrives_with_its_headers(server: Server) -> None:
    await mailer(server).send(["ann@example.com", "bob@example.com"], "Größe", "Hello,\n\nit is here.\n")

    (message,) = server.messages
    assert server.recipients == ["ann@example.com", "bob@example.com"]
    assert str(email.header.make_header(email.header.decode_header(message["Subject"]))) == "Größe"
    assert message["Message-ID"].endswith("@example.com>")
    assert message["Date"]
    assert message.get_payload() == "Hello,\r\n\r\nit is here.\r\n.\r\n"


async def test_a_mail_that_is_sent_again_keeps_its_id(server: Server) -> None:
    for _ in range(2):
        await mailer(server).send("ann@example.com", "Hello", "", message_id="<order-1@example.com>")

    assert [message["Message-ID"] for message in server.messages] == ["<order-1@example.com>"] * 2


async def test_refused_recipient_is_a_mail_error(server: Server) -> None:
    server.refused = "ann"
    with pytest.raises(ExternalServiceError) as raised:
        await mailer(server).send("ann@example.com", "Hello", "")
    assert raised.value.service == "mail"


async def test_silent_mail_server_times_out(server: Server) -> None:
    server.silent = True
    with pytest.raises(ExternalServiceError):
        await mailer(server, timeout=0.2).send("ann@example.com", "Hello", "")


async def test_unreachable_mail_server_is_a_mail_error() -> None:
    with pytest.raises(ExternalServiceError):
        await Mailer("127.0.0.1", "shop@example.com", port=1).send("ann@example.com", "Hello", "")


async def test_line_break_in_a_subject_is_refused(server: Server) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        await mailer(server).send("ann@example.com", "Hello\nBcc: eve@example.com", "")
    assert server.recipients == []
