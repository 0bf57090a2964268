"""`plinth jobs sql`: the statements of the job engine, for EXPLAIN."""

from importlib import import_module

import click

__all__ = ["sql"]

_MODULES = {
    "claim_sql": ("CLAIM", "CLAIM_WITH_KEYS", "CLAIM_IN_TURN"),
    "key_sql": ("KEYS",),
    "sql": ("FINISH", "RETRY", "RELEASE", "PROGRESS", "SWEEP", "REAP", "RENEW_SESSION"),
    "batch_sql": ("OVER", "OVER_AMONG"),
    "step_sql": ("KEEP_STEPS", "SUSPEND"),
    "prune_sql": ("PRUNE",),
}
_NAMES = [name.lower() for names in _MODULES.values() for name in names]


@click.command(short_help="Print the statements of the job engine.")
@click.argument("name", type=click.Choice([*_NAMES, "enqueue"]), required=False, metavar="[NAME]")
def sql(name: str | None) -> None:
    """Print the statements of the job engine, or one of them; $1, $2 … are their parameters."""
    from plinth.jobs.enqueue_sql import INSERT

    statements = {
        known.lower(): getattr(import_module(f"plinth.jobs.engine.{module}"), known)
        for module, names in _MODULES.items()
        for known in names
    }
    statements["enqueue"] = INSERT
    for known, statement in statements.items():
        if name in (None, known):
            click.echo(f"-- {known}\n{statement.strip()};\n")
