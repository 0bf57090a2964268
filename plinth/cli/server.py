"""The API's server: uvicorn with the bounded protocol, and the second port beside it."""

import signal
import socket
import sys
from functools import partial
from typing import Any

from plinth.cli.common import fail
from plinth.cli.service import ServiceError, load
from plinth.settings import PlatformSettings

__all__ = ["GRACE_SECONDS", "listen", "serve"]

# uvicorn waits this long for requests to end before it stops, in seconds.
GRACE_SECONDS = 20
# Longer than the 60 s for which proxies keep idle connections: the proxy must be the one that closes them.
KEEP_ALIVE_SECONDS = 75
# uvicorn's own exit code for an application that does not start.
STARTUP_FAILURE = 3


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens from now on, on `::` for IPv4 too; requests wait until the code has started."""
    import uvicorn

    config = uvicorn.Config("", host=host, port=port, log_config=None)
    listening = config.bind_socket()
    listening.listen(config.backlog)
    return listening


def serve(
    settings: PlatformSettings,
    *,
    host: str,
    port: int,
    root_path: str | None,
    sockets: list[Any] | None = None,
    grace: int = GRACE_SECONDS,
) -> None:
    """The API in this process, on `sockets` if they are given. At its end requests have `grace` seconds to end."""
    try:
        create_app = load(settings.service.application)
    except ServiceError as error:
        fail(str(error), code=2)

    import uvicorn

    from plinth.api.process import make_application
    from plinth.health.probe_server import ProbeServer, ProbeServerError
    from plinth.http.limits import ConnectionLimits
    from plinth.http.protocol import BoundedHttpToolsProtocol

    application = make_application(create_app, lambda: settings)
    lifecycle = application.state.lifecycle
    probes = ProbeServer(
        host,
        settings.METRICS_PORT,
        alive=lambda: lifecycle.alive,
        ready=lambda: lifecycle.ready,
        drain=lifecycle.drain,
    )
    try:
        probes.start()
    except ProbeServerError as error:
        fail(str(error), code=1)
    limits = ConnectionLimits.of(settings)
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=partial(BoundedHttpToolsProtocol, limits=limits),  # type: ignore[arg-type]
        ws_max_size=limits.message_bytes,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=root_path if root_path is not None else settings.ROOT_PATH or "",
        forwarded_allow_ips=",".join(settings.FORWARDED_ALLOW_IPS),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
    )
    server = uvicorn.Server(config)
    # When it has shut down, uvicorn raises the signal again that told it to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    finally:
        probes.stop()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
