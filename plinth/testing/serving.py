"""The application on a socket, for tests that need one: streams, broken connections, other programs as clients."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI

from plinth.http.limits import ConnectionLimits
from plinth.http.protocol import BoundedHttpToolsProtocol

__all__ = ["serving"]


@contextmanager
def serving(app: FastAPI, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """Serve `app` on loopback as `plinth api` does, in a thread; yields the address of its root.

    Raises:
        AssertionError: the server does not start; its log says why.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(BoundedHttpToolsProtocol, limits=limits),  # type: ignore[arg-type]
        ws_max_size=(limits or ConnectionLimits()).message_bytes,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            yield "http://{}:{}".format(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()
