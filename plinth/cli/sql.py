"""`plinth jobs sql`: the statements of the job engine, for EXPLAIN."""

import click

__all__ = ["sql"]

_NAMES = ("CLAIM", "FINISH", "RETRY", "RELEASE", "PROGRESS", "SWEEP", "REAP", "PRUNE", "RENEW_SESSION")


@click.command()
@click.argument("name", type=click.Choice([*map(str.lower, _NAMES), "enqueue"]), required=False, metavar="[NAME]")
def sql(name: str | None) -> None:
    """Print the statements of the job engine, or one of them; $1, $2 … are their parameters."""
    from plinth.jobs.engine import sql as engine
    from plinth.jobs.enqueue import INSERT

    statements = {known.lower(): getattr(engine, known) for known in _NAMES} | {"enqueue": INSERT}
    for known, statement in statements.items():
        if name in (None, known):
            click.echo(f"-- {known}\n{statement.strip()};\n")
