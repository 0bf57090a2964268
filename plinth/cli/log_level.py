"""`plinth log-level`: what the process beside this one writes into its log."""

import click

from plinth.cli.second_port import ask, port_option
from plinth.telemetry.logging import LEVELS

__all__ = ["log_level"]

TIMEOUT_SECONDS = 5.0


@click.command("log-level", short_help="Print or change the log level of the process here.")
@click.argument("level", required=False, type=click.Choice(LEVELS, case_sensitive=False))
@port_option
def log_level(level: str | None, port: int | None) -> None:
    """Print the level of the log of the API or worker that runs here, or set it until it ends.

    Here is the container, in a cluster: kubectl exec deploy/plinth-api -- plinth log-level DEBUG
    """
    method = "GET" if level is None else "PUT"
    answer = ask(method, "/log-level", port=port, timeout=TIMEOUT_SECONDS, body=level)
    click.echo(" -> ".join(answer.split()))
