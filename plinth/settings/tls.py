"""Makes the TLS context of a connection to PostgreSQL, by libpq's rules: https://www.postgresql.org/docs/current/libpq-ssl.html"""

import ssl
from collections.abc import Mapping

# Older ones, which libpq would still accept, are no secret any more.
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def client_context(parameters: Mapping[str, str]) -> ssl.SSLContext:
    """Return the context for sslmode (at least `require`), the files, the versions and sslnegotiation.

    Raises ValueError, with the name of the parameter, if a file cannot be loaded.
    """
    root = parameters.get("sslrootcert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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


def _load_root(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
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
