"""What event streams of jobs cost an API process and PostgreSQL, as they grow: at rest, and while each job reports."""

import asyncio
import time
from collections.abc import Callable

from bench.growth.service import Cost, Service, peak_memory
from bench.http import API, Contender, wire

__all__ = ["measure_streams"]

# API processes, and streams in all: a process takes 500, and 50 of one caller.
ROWS = ((1, 50), (1, 500), (4, 2_000), (20, 10_000))
OF_CALLER = 50
SECONDS = 10.0


def measure_streams(service: Service, most: int) -> None:
    print("\nAt rest, and while each job reports once a second; shares of a core.\n")
    print("| Streams | API processes | APIs at rest | PostgreSQL | APIs reporting | PostgreSQL | memory of a stream |")
    print("| ---: |" + " ---: |" * 6)
    for processes, streams in (row for row in ROWS if row[1] <= most):
        service.execute("TRUNCATE job")
        service.execute(
            f"""
            INSERT INTO job (kind, queue, priority, owner, payload, max_attempts, state, run_at)
            SELECT 'bench.watched', 'nowhere', 0, 'watcher-' || n / {OF_CALLER}, '{{}}', 1, 'available', now()
            FROM generate_series(0, {streams - 1}) AS n
            """
        )
        service.settle()
        apis = [service.api(number) for number in range(processes)]
        with service.running(*apis):
            print(asyncio.run(measure(service, apis, streams)), flush=True)


async def measure(service: Service, apis: list[Contender], streams: int) -> str:
    pids = [api.pid for api in apis]
    before = sum(map(peak_memory, pids))
    rows = service.execute("SELECT owner, id FROM job ORDER BY owner, id").splitlines()
    tokens: dict[str, str] = {}
    events = 0
    reading, writers = [], []

    async def read(reader: asyncio.StreamReader) -> None:
        nonlocal events
        while data := await reader.read(65_536):
            events += data.count(b"event: progress")

    for number, row in enumerate(rows):
        owner, _, job = row.partition("|")
        token = tokens.setdefault(owner, service.issuer.token(owner))
        api = apis[number * len(apis) // streams]
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(wire("GET", f"{API}/jobs/{job}/events", token).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(head.decode())
        reading.append(asyncio.create_task(read(reader)))
        writers.append(writer)
    await asyncio.sleep(2)
    memory = (sum(map(peak_memory, pids)) - before) / streams * 1e3
    _, idle, idle_database = await during(service, pids, lambda: None)
    events = 0
    changes = "UPDATE job SET progress_done = COALESCE(progress_done, 0) + 1, progress_total = 100"
    seconds, busy, busy_database = await during(service, pids, lambda: service.execute(changes))
    if events < streams * SECONDS / 2:
        raise SystemExit(f"{events} events came")
    for task in reading:
        task.cancel()
    for writer in writers:
        writer.close()
    shares = [f"{share / seconds:.0%}" for share in (idle, idle_database, busy, busy_database)]
    return f"| {streams:,} | {len(apis)} | {' | '.join(shares)} | {memory:.0f} KB |"


async def during(service: Service, pids: list[int], each_second: Callable[[], object]) -> tuple[float, float, float]:
    """What `SECONDS` cost, with a call each second."""
    cost = Cost(service, *pids)
    began = time.monotonic()
    for second in range(int(SECONDS)):
        await asyncio.to_thread(each_second)
        await asyncio.sleep(max(0.0, began + second + 1 - time.monotonic()))
    return cost.end()
