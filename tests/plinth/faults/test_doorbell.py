"""Any client of Redis may ring the doorbell: too often, for nothing, or with garbage."""

import asyncio
import json
from uuid import uuid4

from tests.plinth.faults.fleet import Fleet
from tests.plinth.faults.kinds import Effect, effect

GARBAGE = [
    b"",
    b"\x80\xff\x00",
    b"null",
    b"7",
    b"NaN",
    b"[]",
    b"{}",
    b'"queues"',
    b'{"queues": 5, "cancelled": []}',
    b'{"queues": null, "cancelled": null}',
    b'{"queues": [[]], "cancelled": [[]]}',
    b'{"queues": [], "cancelled": [5]}',
    b'{"queues": [], "cancelled": ["not-an-id"]}',
    b'{"queues": {"default": 1}, "cancelled": {}}',
    b"[" * 100_000,
    b'{"queues":' * 100_000,
    b'{"queues": [], "cancelled": [' + b"9" * 10_000 + b"]}",
    json.dumps({"queues": ["default"] * 100_000, "cancelled": []}).encode(),
    json.dumps({"queues": [], "cancelled": [str(uuid4()) for _ in range(1000)]}).encode(),
]


async def test_doorbell_duplicates_and_garbage_change_nothing(fleet: Fleet) -> None:
    # So long that what is heard in time has been heard through the doorbell.
    workers = await fleet.start(3, JOBS_POLL_INTERVAL=60)
    channel = fleet.channel
    accepted = await fleet.enqueue(effect, *[Effect(seconds=1)] * 30)
    await fleet.running(30)
    # A ring is a hint and gives no rights: no cancellation of these was requested.
    forged = json.dumps({"queues": ["default"], "cancelled": [str(job_id) for job_id in accepted]}).encode()
    assert fleet.redis is not None
    for message in [*GARBAGE, forged]:
        assert await fleet.redis.publish(channel, message) == len(workers), "a worker has stopped listening"
    ring = json.dumps({"queues": ["default"], "cancelled": []})
    for _ in range(20):
        accepted += await fleet.enqueue(effect, *[Effect()] * 10)
        await asyncio.gather(*(fleet.redis.publish(channel, ring) for _ in range(40)))
    figures = await fleet.audit("the doorbell rung for nothing, with garbage", accepted, within=10)
    assert figures.runs == len(accepted)
    for worker in workers:
        assert not worker.log.read_text(), "a worker complains"
