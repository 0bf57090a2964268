"""A pooler in transaction mode, as PgBouncer and Supavisor are: each transaction may run on another server connection.

It stands in for them because neither comes as a wheel. It is harsher than they are: it never gives a client the same
server connection twice in a row, and like PgBouncer it refuses the session settings that it does not track.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SERVERS = 2
TRACKED_SETTINGS = {"user", "database", "client_encoding", "application_name"}
SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
READY = b"Z"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """A message's type and the whole of it."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


class TransactionPooler:
    def __init__(self, server_socket: Path) -> None:
        self._server_socket = server_socket
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        self._greeting = b""
        self._clients: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve((reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        while not self._free.empty():
            _, writer = self._free.get_nowait()
            writer.close()
            await writer.wait_closed()

    async def _serve(self, client: Connection) -> None:
        reader, writer = client
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        startup = await reader.readexactly(length - 4)
        (code,) = struct.unpack("!i", startup[:4])
        if code == CANCEL_REQUEST:
            return
        assert code != SSL_REQUEST, "asyncpg asks for no TLS on a unix socket"
        words = startup[4:].split(b"\0")
        settings = {name.decode() for name in words[0::2] if name}
        if refused := settings - TRACKED_SETTINGS:
            fields = f"SFATAL\0C08P01\0Munsupported startup parameter: {min(refused)}\0\0".encode()
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            return
        while self._free.qsize() < SERVERS and not self._greeting:
            await self._connect(startup)
        writer.write(self._greeting)
        while True:
            kind, message = await read_message(reader)
            if kind == b"X":
                return
            await self._transaction(client, message)

    async def _connect(self, startup: bytes) -> None:
        for _ in range(SERVERS):
            server = await asyncio.open_unix_connection(str(self._server_socket))
            server[1].write(struct.pack("!i", len(startup) + 4) + startup)
            greeting, kind = b"", b""
            while kind != READY:
                kind, message = await read_message(server[0])
                greeting += message
            self._greeting = greeting
            self._free.put_nowait(server)

    async def _transaction(self, client: Connection, first: bytes) -> None:
        """Forward the client's messages to one server until that says that it is in no transaction any more."""
        server = await self._free.get()
        try:
            server[1].write(first)
            forward = asyncio.create_task(self._forward(client[0], server[1]))
            try:
                while True:
                    kind, message = await read_message(server[0])
                    client[1].write(message)
                    if kind == READY and message[5:6] == b"I":
                        return
            finally:
                forward.cancel()
                await asyncio.gather(forward, return_exceptions=True)
        finally:
            self._free.put_nowait(server)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, message = await read_message(reader)
            writer.write(message)


@asynccontextmanager
async def transaction_pooler(server_socket: Path, folder: Path) -> AsyncIterator[Path]:
    """A pooler before the server at `server_socket`; the folder that its own socket is in, as libpq's `host`."""
    pooler = TransactionPooler(server_socket)
    listener = await asyncio.start_unix_server(pooler.accept, str(folder / ".s.PGSQL.5432"))
    try:
        yield folder
    finally:
        listener.close()
        await pooler.close()
