"""Keeps files in a bucket that speaks S3's protocol. Needs the extra `storage`: see docs/extras.md."""

from collections.abc import AsyncIterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from obstore import open_writer_async, sign
from obstore.exceptions import BaseError
from obstore.store import S3Store

from plinth.errors import ExternalServiceError, NotFoundError

__all__ = ["Storage"]

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes as a part of a file


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

    async def put_stream(self, name: str, parts: AsyncIterable[bytes]) -> int:
        """Write a file while its parts come, with some 10 MiB of it in memory at most. Returns its size in bytes.

        There is no file, or still the old one, if `parts` raises.

        Raises:
            ExternalServiceError: the server is away or refuses the file.
        """
        size = 0
        # Not as a context manager: that would complete the file whatever happened.
        writer = open_writer_async(self._store, name, buffer_size=PART_BYTES, max_concurrency=1)
        async for part in parts:
            with _translated():
                size += await writer.write(part)
        with _translated():
            await writer.close()
        return size

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
    except (BaseError, OSError) as error:  # the latter is a writer's
        raise ExternalServiceError("storage") from error
