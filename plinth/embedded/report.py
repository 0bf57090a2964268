"""What `plinth run` prints."""

import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

from plinth.embedded.servers import Servers
from plinth.settings import AuthProvider, PlatformSettings

SUBJECT = "alice"
TOKEN_TTL = 7 * 24 * 3600  # seconds


def say(text: object, *, error: bool = False) -> None:
    """Print a line. A terminal that has gone away must not keep anything from being stopped."""
    with suppress(OSError):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


class Progress:
    """Prints each step with the time that it took."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def done(self, step: str) -> None:
        now = time.perf_counter()
        say(f"{step:<32}{now - self._since:5.1f} s")
        self._since = now


def summary(settings: PlatformSettings, servers: Servers, url: str, health: str, metrics: tuple[str, str]) -> str:
    """What there is to use now, a line each. `metrics`: where the API's second port is, and the worker's."""
    lines = {}
    if settings.docs_enabled:
        lines["Docs"] = f"{url}/docs"
    lines["Health"] = url + health
    lines["Metrics"] = "{}/metrics, of the worker {}/metrics".format(*metrics)
    if settings.AUTH_PROVIDER is AuthProvider.LOCAL:
        # Not at the top: a run with another provider needs none of its imports.
        from plinth.identity import sign_local_token

        ttl = min(TOKEN_TTL, settings.TOKEN_MAX_LIFETIME or TOKEN_TTL)
        token = sign_local_token(settings, subject=SUBJECT, ttl=ttl)
        lines["Token"] = token
        lines["Try"] = f"curl {url}{settings.API_V1_STR}/me -H 'Authorization: Bearer {token}'"
    if servers.postgres:
        lines["SQL"] = servers.postgres.psql()
    plinth = shlex.quote(os.path.relpath(Path(sys.executable).with_name("plinth")))
    lines["Jobs"] = f"{plinth} with-servers --data-dir {shlex.quote(str(servers.folder))} -- {plinth} jobs stats"
    lines["Data"] = str(servers.folder)
    lines["Logs"] = str(servers.logs)
    lines["Stop"] = "Ctrl-C"
    return "\n".join(["", *(f"  {name:<9}{text}" for name, text in lines.items()), ""])
