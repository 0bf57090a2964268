"""Keeps files in a bucket that speaks S3's protocol. Needs the extra `storage`: see docs/extras.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from obstore import sign
from obstore.exceptions import BaseError
from obstore.store import S3Store

from plinth.errors import ExternalServiceError, NotFoundError

__all__ = ["Storage"]


class Storage:
    """The files of one bucket. Make one for the process: it keeps its connections."""

    def __init__(self, bucket: str, *, key: str, secret: str, region: str = "us-east-1", endpoint: str = "") -> None:
        """`endpoint`: the address of a server other than AWS, such as `https://minio.example.com`."""
        self._store = S3Store(
            bucket,
            access_key_id=key,
            secret_access_key=secret,
            region=region,
            endpoint=endpoint or f"https://s3.{region}.amazonaws.com",
            client_options={"timeout": "10s", "connect_timeout": "3s", "allow_http": endpoint.startswith("http:")},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        )

    async def put(self, name: str, content: bytes) -> None:
        """Write a file, or write it anew. Raises ExternalServiceError."""
        with _translated():
            await self._store.put_async(name, content)

    async def get(self, name: str) -> bytes:
        """A file's content. Raises NotFoundError, ExternalServiceError."""
        with _translated():
            return bytes(await (await self._store.get_async(name)).bytes_async())

    async def delete(self, name: str) -> None:
        """Delete a file, which may be gone already. Raises ExternalServiceError."""
        with _translated():
            await self._store.delete_async(name)

    def presigned(self, name: str, *, valid: timedelta = timedelta(minutes=15)) -> str:
        """An address from which anyone can read the file for so long. Asks no server."""
        return sign(self._store, "GET", name, valid)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError("There is no such file.") from error
    except BaseError as error:
        raise ExternalServiceError("storage") from error
