"""Says in a few words why a server could not be reached, without its name or address."""

import errno
import re
import socket
import ssl

__all__ = ["network_reason"]

# When a host name has several addresses, asyncio joins the errors of all in one without a number.
_NUMBER = re.compile(r"\[Errno (\d+)\]")

_ERRNOS = {
    errno.ECONNREFUSED: "nothing listens at its host and port",
    errno.ENOENT: "its socket does not exist",
    errno.EACCES: "this process may not open its socket",
    errno.EHOSTUNREACH: "no way leads to its host",
    errno.ENETUNREACH: "no way leads to its host",
    errno.ECONNRESET: "it closed the connection",
    errno.EPIPE: "it closed the connection",
    errno.ETIMEDOUT: "there was no answer in time",
    errno.EMFILE: "this process may open no more files",
}


def network_reason(error: BaseException) -> str | None:
    """Why a connection could not be opened or broke, or None if the network had no part in it."""
    match error:
        case socket.gaierror() | UnicodeError():  # a name that DNS cannot hold fails in Python's codec
            return "its host name was not found"
        case ssl.SSLCertVerificationError():
            return "its certificate could not be verified"
        case ssl.SSLError():
            return "TLS could not be agreed on"
        case TimeoutError():
            return "there was no answer in time"
        case EOFError():
            return "it closed the connection"
        case OSError():
            numbers = [error.errno] if error.errno else [int(found) for found in _NUMBER.findall(str(error))]
            return next((_ERRNOS[number] for number in numbers if number in _ERRNOS), None)
    return None
