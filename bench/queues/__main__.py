"""A contender's process: `python -m bench.queues NAME client`, or `… NAME worker JOBS [waited] [gated]`.

DATABASE_URL and REDIS_URL say where its stores are.
"""

import importlib
import logging
import os
import sys

import uvloop

from bench.queues.harness import Queue, client, worker


def main(name: str, role: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    # Installed for development alone, where structlog loads it: 5 MB that no worker has in production.
    sys.modules["rich"] = None  # type: ignore[assignment]
    make = importlib.import_module(f"bench.queues.{name}").Contender
    queue: Queue = make(os.environ["DATABASE_URL"], os.environ["REDIS_URL"])
    if role == "client":
        uvloop.run(client(queue))
    else:
        options = {"tell_waited": "waited" in arguments, "gated": "gated" in arguments}
        uvloop.run(worker(queue, int(arguments[0]), **options))


if __name__ == "__main__":
    main(*sys.argv[1:])
