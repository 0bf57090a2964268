"""Makes the TLS context of a connection to PostgreSQL, by libpq's rules: https://www.postgresql.org/docs/current/libpq-ssl.html"""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Older ones, which libpq would still accept, are no secret any more.
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class ClientContext(ssl.SSLContext):
    """A context that reads the file of its authorities again when it has changed.

    An operator such as CloudNativePG renews its authority every three months, under processes that run for longer.
    """

    _file: str | None = None
    _read: tuple[int, int] | None = None

    def trust(self, file: str) -> None:
        """Trust the authorities in a file, beside those that it had before.

        Raises OSError, of which ssl.SSLError is one, if none can be loaded.
        """
        found = Path(file).stat()
        self.load_verify_locations(cafile=file)
        self._file, self._read = file, (found.st_ino, found.st_mtime_ns)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """Begin a connection: what asyncio and uvloop call for each."""
        if self._file is not None:
            with suppress(OSError):  # then those that were read last stay
                found = Path(self._file).stat()
                if (found.st_ino, found.st_mtime_ns) != self._read:
                    self.trust(self._file)
        return super().wrap_bio(*args, **kwargs)


def client_context(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return the context for sslmode (at least `require`), the files, the versions and sslnegotiation.

    Raises ValueError, with the name of the parameter, if a file cannot be loaded.
    """
    root = parameters.get("sslrootcert")
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS.get(parameters.get("ssl_min_protocol_version", ""), ssl.TLSVersion.TLSv1_2)
    context.maximum_version = _VERSIONS.get(
        parameters.get("ssl_max_protocol_version", ""), ssl.TLSVersion.MAXIMUM_SUPPORTED
    )
    context.set_alpn_protocols(["postgresql"])  # which PostgreSQL asks for if sslnegotiation is direct
    context.check_hostname = parameters["sslmode"] == "verify-full"
    if root is None:
        context.verify_mode = ssl.CERT_NONE
    elif root == "system":
        context.load_default_certs()
    else:
        _load_root(context, root)  # with it, `require` verifies as `verify-ca` does
    if "sslcert" in parameters:
        _load_own(context, parameters)
    return context


def _load_root(context: ClientContext, path: str) -> None:
    try:
        context.trust(path)
    except OSError:  # ssl.SSLError is one
        raise ValueError("sslrootcert: no certificate can be loaded from it") from None


def _load_own(context: ssl.SSLContext, parameters: Mapping[str, str]) -> None:
    def password() -> str:
        # Without a function, OpenSSL asks for the password on the terminal.
        return parameters.get("sslpassword", "")

    try:
        context.load_cert_chain(parameters["sslcert"], parameters.get("sslkey"), password)
    except (OSError, ValueError):
        raise ValueError("sslcert, sslkey, sslpassword: certificate and key cannot be loaded") from None
