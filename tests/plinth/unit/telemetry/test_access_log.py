"""Lines of what went well wait for one another, and nobody sees it of them."""

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from select import PIPE_BUF

import pytest
import structlog
from structlog.testing import capture_logs

from plinth.telemetry import access_log as waiting_lines
from plinth.telemetry.access_log import MAX_WAITING, log_values, write_waiting
from plinth.telemetry.log_records import current_ids, request_id_var
from plinth.telemetry.logging import set_log_level
from tests.support.logs import Configure
from tests.support.notes import PACKAGES


def say(number: int, *more: object, soon: bool = True) -> None:
    log_values("said", ("number", "more"), (number, *more), current_ids(), soon=soon)


async def test_comes_by_itself(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    say(1)
    say(2, "x")
    assert stderr.written() == ""
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if stderr.written():
            break
    first, second = [json.loads(line) for line in stderr.written().splitlines()]
    del first["timestamp"], second["timestamp"]
    assert first == {"message": "said", "level": "info", "number": 1}
    assert second == {"message": "said", "level": "info", "number": 2, "more": "x"}


async def test_is_as_if_it_had_been_written_at_once(configure: Configure) -> None:
    lines = []
    for soon in (False, True):
        stderr = configure(LOG_FORMAT="json")
        token = request_id_var.set("a-request")
        before = datetime.now(UTC)
        say(1, "postgresql://user:hunter2@host/", soon=soon)
        after = datetime.now(UTC)
        request_id_var.reset(token)
        await asyncio.sleep(0.01)
        (line,) = stderr.lines()
        assert before <= datetime.fromisoformat(line.pop("timestamp")) <= after
        lines.append(line)
    assert lines[0] == lines[1]
    assert lines[0]["request_id"] == "a-request"
    assert "hunter2" not in lines[0]["more"]


@pytest.mark.parametrize("other", ["ours", "theirs", "at once"])
async def test_comes_before_what_is_said_later(configure: Configure, other: str) -> None:
    stderr = configure(LOG_FORMAT="json")
    say(1)
    if other == "ours":
        structlog.get_logger().warning("later")
    elif other == "theirs":
        logging.getLogger("any").warning("later")
    else:
        say(2, soon=False)
    say(3)
    numbers = [json.loads(line).get("number") for line in stderr.written().splitlines()]
    assert numbers == ([1, 2] if other == "at once" else [1, None])
    assert stderr.lines()[-1]["number"] == 3


async def test_is_not_overtaken_by_another_thread_s(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configure(LOG_FORMAT="json")
    other = threading.Thread(target=structlog.get_logger().info, args=("later",))
    write = waiting_lines._write_together

    def interrupted(lines: list[bytes]) -> None:
        if not other.ident:
            other.start()
            other.join(waiting_lines.SOON_SECONDS / 2)
        write(lines)

    monkeypatch.setattr(waiting_lines, "_write_together", interrupted)
    say(1)
    write_waiting()
    other.join()
    assert [line["message"] for line in stderr.lines()] == ["said", "later"]


async def test_comes_though_another_thread_has_taken_long_to_write(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with waiting_lines._writing:
            holds.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(10)
    say(1)
    await asyncio.sleep(3 * waiting_lines.SOON_SECONDS)
    assert stderr.written() == ""
    done.set()
    thread.join()
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if stderr.written():
            break
    assert json.loads(stderr.written())["number"] == 1


async def test_is_written_in_pieces_that_no_other_process_tears(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(LOG_FORMAT="json")
    pieces: list[bytes] = []
    monkeypatch.setattr(waiting_lines, "_write", pieces.append)
    for number in range(150):
        say(number, "x" * (10_000 if number == 70 else number))
    write_waiting()
    assert [json.loads(line)["number"] for piece in pieces for line in piece.splitlines()] == [*range(150)]
    assert 2 < len(pieces) < 20
    # With the line break at the end.
    assert {len(piece.splitlines()) for piece in pieces if len(piece) + 1 > PIPE_BUF} == {1}


def test_comes_by_itself_in_each_loop(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")

    async def say_and_end() -> None:
        say(1)

    async def say_and_wait() -> None:
        say(2)
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if stderr.written():
                break

    asyncio.run(say_and_end())
    asyncio.run(say_and_wait())
    assert len(stderr.written().splitlines()) == 2


async def test_holds_nothing_of_the_request(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")

    class Large:
        pass

    async def request() -> weakref.ref[Large]:
        held.set(large := Large())
        request_id_var.set("a-request")
        say(1)
        return weakref.ref(large)

    held: ContextVar[Large] = ContextVar("held")
    alive = await asyncio.create_task(request())
    await asyncio.sleep(0)
    gc.collect()
    assert alive() is None
    assert stderr.lines()[0]["request_id"] == "a-request"


async def test_can_be_captured(configure: Configure) -> None:
    configure(LOG_FORMAT="json")
    with capture_logs() as logs:
        say(1)
    assert logs == [{"event": "said", "log_level": "info", "number": 1}]


async def test_does_not_pile_up(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    for number in range(MAX_WAITING + 5):
        say(number)
    assert len(stderr.written().splitlines()) == MAX_WAITING
    assert [line["number"] for line in stderr.lines()] == [*range(MAX_WAITING + 5)]


async def test_is_whole_whoever_writes_it(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            write_waiting()

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(3000):
        say(number)
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(line["number"] for line in stderr.lines()) == [*range(3000)]


async def test_keeps_to_the_level(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="json")
    set_log_level("WARNING")
    say(1)
    set_log_level("INFO")
    say(2)
    assert [line["number"] for line in stderr.lines()] == [2]


async def test_is_at_once_where_somebody_looks_on(configure: Configure) -> None:
    stderr = configure(LOG_FORMAT="console")
    say(1)
    assert "number=1" in stderr.written()


def test_is_written_once_though_the_process_has_children_and_ends(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from notes.config import Settings\n"
        "from plinth.telemetry.log_records import Ids\n"
        "from plinth.telemetry.logging import configure_logging\n"
        "from plinth.telemetry.access_log import log_values\n"
        "configure_logging(Settings(LOG_FORMAT='json', DATABASE_URL='sqlite+aiosqlite://', SECRET_KEY=32 * 'x'))\n"
        "async def main():\n"
        "    log_values('said', ('number',), (1,), Ids(), soon=True)\n"
        "    child = os.fork()\n"
        "    child and os.waitpid(child, 0)\n"
        "    sys.exit(3)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGES}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stderr)["number"] == 1
