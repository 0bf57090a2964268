"""Keys derived from SECRET_KEY, one for each purpose."""

import hmac


def derive_key(secret: str, purpose: str) -> bytes:
    """Make a 32-byte key for one purpose out of the application's secret.

    What is signed for one purpose never passes for another.
    """
    return hmac.digest(secret.encode(), b"plinth:" + purpose.encode(), "sha256")
