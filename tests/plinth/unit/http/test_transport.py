"""How far a peer has read is known from the kernel as well."""

import asyncio
import socket
from typing import Any

from plinth.http.transport import LingeringTransport
from plinth.testing import until


class Sender(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = LingeringTransport(transport, lambda: False)


async def test_what_waits_in_the_kernel_is_not_taken() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _, sender = await loop.create_connection(Sender, *server.getsockname())
        peer, _ = server.accept()
        with peer:
            sender.transport.write(b"x" * 5_000_000)
            await asyncio.sleep(0.2)
            before = sender.transport.taken()
            buffered = sender.transport.get_write_buffer_size()
            assert 0 < before < sender.transport.written - buffered
            peer.setblocking(False)
            received = 0
            while received < 5_000_000:
                received += len(await loop.sock_recv(peer, 65_536))
            await until(lambda: sender.transport.taken() == sender.transport.written)
        sender.transport.close()
