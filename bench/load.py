"""The load generator: one thread, one epoll, N keep-alive connections, each with one request in flight.

`python -m bench.load` reads a `Plan` as JSON from standard input and writes the measurement as JSON. It is a process
of its own, to be pinned to a core, and shares that core with the database: it does as little for a request as it
can, but it looks at the status and at the body's length of every response. The first wrong one ends the run, since
errors are cheap to serve and must never count as work.
"""

import json
import select
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STALL_SECONDS = 10.0


class LoadError(Exception):
    """The server answered wrongly or not at all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it goes over the wire, and the answer it must get."""

    request: str
    status: int
    min_body: int
    max_body: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, in turn and over again, until `seconds` have passed or `max_requests` were sent."""

    port: int
    pid: int
    core: int
    connections: int
    seconds: float
    max_requests: int
    calls: list[Call]


def processes(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_ns(pid: int) -> int:
    """CPU time of the process, its threads and its descendants, in nanoseconds.

    From the scheduler (`schedstat`) where the kernel shows it, else from `stat`, whose clock ticks of 10 ms are
    only good enough for rounds of seconds.
    """
    total = 0
    for process in processes(pid):
        tasks = list(Path(f"/proc/{process}/task").glob("*/schedstat"))
        if tasks:
            total += sum(int(task.read_text().split()[0]) for task in tasks)
        else:
            total += ticks_ns(process)
    return total


def ticks_ns(pid: int) -> int:
    """utime + stime of one process from `/proc/<pid>/stat`, in nanoseconds; a tick is 1/100 s on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10_000_000


def busy_ns(core: int) -> int:
    """Time that core has spent on anything but idling, by everybody, in nanoseconds (10 ms resolution)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, *rest = map(int, ticks[:8])
            return (user + nice + system + sum(rest)) * 10_000_000
    return 0


def run(plan: Plan) -> dict[str, Any]:
    """Drive the server at 127.0.0.1:`plan.port`.

    Returns the number of answered requests, wall seconds, CPU nanoseconds of the server and of everybody on
    its core, and each latency in nanoseconds, from `send` to the last byte of the answer.

    Raises:
        LoadError: an answer had another status or length than the plan says, or none came for ten seconds.
    """
    calls = [(call.request.encode(), b"HTTP/1.1 %d " % call.status, call) for call in plan.calls]
    epoll = select.epoll()
    address = ("127.0.0.1", plan.port)
    connections = [socket.create_connection(address, timeout=5) for _ in range(plan.connections)]
    by_fd = {connection.fileno(): connection for connection in connections}
    sent_at = dict.fromkeys(by_fd, 0)
    expected = dict.fromkeys(by_fd, calls[0])
    received: dict[int, bytes] = {}
    for connection in connections:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        epoll.register(connection, select.EPOLLIN)

    latencies = array("q")
    clock = time.perf_counter_ns
    sent = in_flight = 0
    cpu, busy, started = cpu_ns(plan.pid), busy_ns(plan.core), clock()
    deadline = started + int(plan.seconds * 1e9)

    def send(fd: int) -> None:
        nonlocal sent, in_flight
        expected[fd] = call = calls[sent % len(calls)]
        sent += 1
        in_flight += 1
        sent_at[fd] = clock()
        if by_fd[fd].send(call[0]) != len(call[0]):
            raise LoadError("a request did not fit into the socket's buffer")

    for fd in by_fd:
        send(fd)
    while in_flight:
        ready = epoll.poll(STALL_SECONDS)
        if not ready:
            raise LoadError(f"no answer for {STALL_SECONDS:.0f} s, {in_flight} requests in flight")
        for fd, _ in ready:
            data = by_fd[fd].recv(262_144)
            if not data:
                raise LoadError(f"the server closed a connection after {len(latencies)} answers")
            if fd in received:
                data = received.pop(fd) + data
            head = data.find(b"\r\n\r\n")
            _, status, call = expected[fd]
            if head < 0:
                received[fd] = data
                continue
            at = data.find(b"content-length:", 0, head)
            if at < 0 or not data.startswith(status):
                raise LoadError(f"for {call.request[:200]!r} came {data[:600]!r}")
            length = int(data[at + 15 : data.index(b"\r", at)])
            if len(data) - head - 4 < length:
                received[fd] = data
                continue
            now = clock()
            if len(data) - head - 4 != length or not call.min_body <= length <= call.max_body:
                raise LoadError(
                    f"for {call.request[:200]!r} came a body of {length} bytes, "
                    f"not {call.min_body} to {call.max_body}: {data[:600]!r}"
                )
            latencies.append(now - sent_at[fd])
            in_flight -= 1
            if now < deadline and sent < plan.max_requests:
                send(fd)

    wall = (clock() - started) / 1e9
    cpu, busy = cpu_ns(plan.pid) - cpu, busy_ns(plan.core) - busy
    for connection in connections:
        connection.close()
    return {
        "requests": len(latencies),
        "seconds": wall,
        "cpu_ns": cpu,
        "busy_ns": busy,
        "latencies_ns": latencies.tolist(),
    }


def plan_to_json(plan: Plan) -> str:
    return json.dumps(asdict(plan))


def plan_from_json(text: str) -> Plan:
    fields = json.loads(text)
    return Plan(**{**fields, "calls": [Call(**call) for call in fields["calls"]]})


if __name__ == "__main__":
    try:
        json.dump(run(plan_from_json(sys.stdin.read())), sys.stdout)
    except (LoadError, OSError) as error:
        sys.exit(f"load: {error}")
