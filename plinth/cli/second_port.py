"""How commands ask the process beside them: over its second port, on this machine."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException

import click

from plinth.cli.common import fail, read_settings

__all__ = ["ask", "port_option"]

port_option = click.option(
    "--port", type=click.IntRange(1, 65535), help="Instead of METRICS_PORT: the second port of the process."
)


def ask(method: str, path: str, *, port: int | None, timeout: float, body: str | None = None) -> str:
    """The process's answer as text; ends with 1 where there is none or it refuses. None: the port is METRICS_PORT."""
    port = port or read_settings().METRICS_PORT
    if port == 0:
        fail("METRICS_PORT is 0, so the port is not known: give it with --port.", code=2)
    try:
        # The process may listen on one of the addresses of localhost alone: each is tried.
        with closing(HTTPConnection("localhost", port, timeout=timeout)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read(1000).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        fail(f"No process answers on port {port} of this machine: {type(error).__name__}.", code=1)
    if response.status != 200:
        fail(f"The process on port {port} refuses: {answer}.", code=1)
    return answer
