# ruff: noqa: T201 - a script: the tests run it in a pod of the cluster, from a ConfigMap
"""Writes a row to the primary five times a second until a file appears, each by a connection of its own.

    python primary_watch.py STOP_FILE

Prints a line for each try: when it began, in seconds since 1970, and `ok` or why it did not come through.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import asyncpg

PAUSE = 0.2
# For connecting and for the row. A commit that waits for a standby takes up the whole of it.
PATIENCE = 1.0


async def write() -> str:
    connection = None
    try:
        async with asyncio.timeout(PATIENCE):
            connection = await asyncpg.connect(os.environ["DATABASE_URL"], ssl="require")
            await connection.execute("INSERT INTO primary_watch VALUES (now())")
    except Exception as error:  # noqa: BLE001 - asyncpg has many for a server that goes; none ends the watch
        return repr(error)
    else:
        return "ok"
    finally:
        if connection is not None:
            connection.terminate()


async def main(stop: Path) -> None:
    while not stop.exists():  # noqa: ASYNC240 - it takes microseconds
        began = time.time()
        print(began, await write(), flush=True)
        await asyncio.sleep(max(0.0, began + PAUSE - time.time()))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
