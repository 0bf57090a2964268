"""AES-256-GCM for the payloads and step results of jobs: the codec `aes_gcm`."""

import hmac
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import SecretStr

from plinth.jobs.codec import PayloadCodec
from plinth.settings import PlatformSettings, SettingsError
from plinth.settings.keys import derive_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["AesGcm", "aes_gcm"]

VERSION = b"\x01"
ID, SALT, NONCE = 4, 16, 12  # bytes
HEAD = len(VERSION) + ID + SALT + NONCE


class AesGcm:
    """Encrypts with the first of several keys, and decrypts with each of them.

    Stored are a version, the key's id, a salt, a nonce, and the cipher text with its tag. Each message has a key of its
    own, made of the salt: random nonces are good for 2³² messages of a key, which a busy service makes in weeks.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        # Imported where it is used: most services encrypt nothing.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher, self._invalid = AESGCM, InvalidTag
        self._keys = {hmac.digest(key, b"id", "sha256")[:ID]: key for key in reversed(keys)}
        self._id = hmac.digest(keys[0], b"id", "sha256")[:ID]

    def encode(self, data: bytes, context: bytes) -> bytes:
        """Encrypt for a context."""
        head = VERSION + self._id + os.urandom(SALT + NONCE)
        return head + self._cipher_of(self._keys[self._id], head).encrypt(head[-NONCE:], data, head + context)

    def decode(self, data: bytes, context: bytes) -> bytes:
        """Decrypt what was encrypted for the same context. Raises ValueError if no key does it."""
        head = data[:HEAD]
        key = self._keys.get(head[len(VERSION) : len(VERSION) + ID])
        if key is None or len(head) < HEAD or not head.startswith(VERSION):
            raise ValueError("it was encrypted with a key that is not here, or not by this codec")
        try:
            return self._cipher_of(key, head).decrypt(head[-NONCE:], data[HEAD:], head + context)
        except self._invalid:
            raise ValueError("it was changed, or encrypted for something else") from None

    def _cipher_of(self, key: bytes, head: bytes) -> "AESGCM":
        salt = head[-SALT - NONCE : -NONCE]
        return self._cipher(hmac.digest(key, b"salt" + salt, "sha256"))


def aes_gcm(settings: PlatformSettings) -> PayloadCodec:
    """The codec with the keys of JOBS_ENCRYPTION_KEY: `@job(…, codec=aes_gcm)`.

    Raises:
        SettingsError: there is none.
    """
    if settings.JOBS_ENCRYPTION_KEY is None:
        raise SettingsError(["JOBS_ENCRYPTION_KEY (not set): expected a secret, as payloads are encrypted"])
    return _with_keys(settings.JOBS_ENCRYPTION_KEY)


@lru_cache(maxsize=8)
def _with_keys(secrets: SecretStr) -> AesGcm:
    return AesGcm(derive_keys(secrets, "payloads of jobs"))
