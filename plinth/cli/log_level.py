"""`plinth log-level`: what the process beside this one writes into its log."""

from contextlib import closing
from http.client import HTTPConnection, HTTPException

import click

from plinth.cli.common import fail, load_settings
from plinth.telemetry.logging import LEVELS

TIMEOUT_SECONDS = 5.0


@click.command("log-level")
@click.argument("level", required=False, type=click.Choice(LEVELS, case_sensitive=False))
@click.option("--port", type=click.IntRange(1, 65535), help="Instead of METRICS_PORT: the second port of the process.")
def log_level(level: str | None, port: int | None) -> None:
    """Print the level of the log of the API or worker that runs here, or set it until it ends.

    Here is the container, in a cluster: kubectl exec deploy/plinth-api -- plinth log-level DEBUG
    """
    port = port or load_settings().METRICS_PORT
    if port == 0:
        fail("METRICS_PORT is 0, so the port is not known: give it with --port.", code=2)
    try:
        status, answer = _ask(port, level)
    except (OSError, HTTPException) as error:
        fail(f"No process answers on port {port} of this machine: {type(error).__name__}.", code=1)
    if status != 200:
        fail(f"The process on port {port} refuses: {answer}.", code=1)
    click.echo(" -> ".join(answer.split()))


def _ask(port: int, level: str | None) -> tuple[int, str]:
    # The process may listen on one of the addresses of localhost alone: each is tried.
    with closing(HTTPConnection("localhost", port, timeout=TIMEOUT_SECONDS)) as connection:
        connection.request("GET" if level is None else "PUT", "/log-level", level)
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace").strip()
