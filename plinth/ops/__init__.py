"""The operator's web page /ops: off unless OPS_ENABLED.

`session` has what a page depends on: `ReaderDep` to look, `OperatorDep` to change. `pages` has what it is made with:
`page_router` and `page`.
"""

from fastapi import FastAPI

from plinth.settings import PlatformSettings

__all__ = ["install_ops"]


def install_ops(app: FastAPI, settings: PlatformSettings) -> None:
    """Serve /ops if OPS_ENABLED. Call it after the routers are included."""
    if not settings.OPS_ENABLED:
        return

    # Imported here, because Jinja2 comes with it: a service without the page neither waits for that nor keeps it.
    from plinth.ops.mount import mount

    mount(app, settings)
