"""Why a server could not be reached is said without its name or address."""

import errno
import socket
import ssl

import pytest

from plinth.database.errors import database_reason
from plinth.network_errors import network_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "its host name was not found"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "its host name was not found"),
        (UnicodeError("label too long"), "its host name was not found"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "s3cret"), "nothing listens at its host and port"),
        (
            OSError(
                f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed ('::1', 5432, 0, 0), "
                f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', 5432)"
            ),
            "nothing listens at its host and port",
        ),
        (FileNotFoundError(errno.ENOENT, "s3cret"), "its socket does not exist"),
        (PermissionError(errno.EACCES, "s3cret"), "this process may not open its socket"),
        (OSError(errno.EHOSTUNREACH, "s3cret"), "no way leads to its host"),
        (TimeoutError(), "there was no answer in time"),
        (ConnectionResetError(errno.ECONNRESET, "s3cret"), "it closed the connection"),
        (EOFError(), "it closed the connection"),
        (ssl.SSLCertVerificationError(1, "s3cret"), "its certificate could not be verified"),
        (ssl.SSLError(1, "s3cret"), "TLS could not be agreed on"),
    ],
)
def test_error_of_the_network_has_a_reason(error: Exception, reason: str) -> None:
    assert network_reason(error) == reason
    assert database_reason(error) == f"The database does not answer: {reason}"


@pytest.mark.parametrize("error", [OSError("s3cret"), ValueError("s3cret"), RuntimeError()])
def test_other_error_has_none(error: Exception) -> None:
    assert network_reason(error) is None
