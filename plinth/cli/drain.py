"""`plinth drain`: sends the clients of the API beside this one elsewhere."""

import click

from plinth.cli.second_port import ask, port_option

__all__ = ["drain"]

# More than the most that DRAIN_SECONDS may be.
TIMEOUT_SECONDS = 310.0


@click.command(short_help="Have the API that runs here send its clients elsewhere.")
@port_option
def drain(port: int | None) -> None:
    """Have the API that runs here send its clients elsewhere, and come back when it has, after DRAIN_SECONDS.

    It serves on, and every answer says that the connection ends. There is no way back: stop it then. In a pod the
    preStop hook does this.
    """
    ask("POST", "/drain", port=port, timeout=TIMEOUT_SECONDS)
