"""Uvicorn's HTTP/1.1 protocol with bounds on what a peer can cost, and one reading of what is a request.

llhttp, the parser, refuses folded headers, spaces before a colon, bare line feeds, two lengths, and a length beside
chunks; `plinth.http.head` the rest. Trailers are dropped, and an `Upgrade` is ignored, as RFC 9110, 7.8 has it.
"""

import asyncio
from contextvars import Context
from itertools import count
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plinth.http.addresses import read_address
from plinth.http.head import END_OF_HEAD, EndOfHead, asks_for_head, body_length, check_protocol, without_upgrade
from plinth.http.limits import FRAMING, MAX_HELD_BYTES, MAX_HELD_REQUESTS, SHUTDOWN_PATIENCE, ConnectionLimits, Patience
from plinth.http.refusals import Refused, report
from plinth.http.transport import LINGER_IDLE_SECONDS, LINGER_SECONDS, LingeringTransport

__all__ = ["ON_SHUTDOWN", "BoundedHttpToolsProtocol"]

ON_SHUTDOWN = "on_shutdown"
"""The key in the lifespan's state: functions to call when the server begins to shut down."""

TICK_SECONDS = 1.0  # between two looks at a connection

_moments = count()  # the loop's clock stands still while many connections come at once


class BoundedHttpToolsProtocol(HttpToolsProtocol):
    """One connection of the API.

    It feeds the parser one request at a time: while it answers one, it keeps later bytes unparsed and stops reading.

    Once a second it looks at how far the peer is: it ends a connection whose head is late, whose body is slow or whose
    responses are not read. At its limit a process ends the oldest connection that never sent a request, or else the one
    that has been idle longest, so that idle ones keep no client out.

    At shutdown it calls the functions of `ON_SHUTDOWN`, which end event streams. Uvicorn waits for every response to
    end before it ends the lifespan, so the lifespan would be too late.
    """

    transport: Any

    def __init__(self, *args: Any, limits: ConnectionLimits | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limits = limits or ConnectionLimits()
        self.since = next(_moments)
        """When the connection began, or its last response ended: a later moment has a larger number."""
        self._in_head = True  # what comes next is a request's head, or the rest of it
        self._head = b""  # what has come of it
        self._ignored_upgrade = False
        self._body_left: int | None = None  # None: it comes in chunks
        self._body_bytes = self._framing_bytes = 0
        self._end_of_head = EndOfHead()
        self._upgraded = False  # to a websocket, which another protocol serves
        self._keep_alive = True  # as the request asks for
        self._drained = 0.0  # seconds for which a body has been read whose request is answered
        self._held = b""  # comes behind a request that is being answered
        self._deaf = False  # what else comes is not looked at
        self._ticks: asyncio.TimerHandle | None = None
        self._late = self._lingered = 0.0  # seconds of waiting for a head, and of listening after the last response
        self._slow = False  # the peer has had its time: it is not listened to for as long again
        self._idle = 0.0  # seconds since the last byte came
        self._moved = 0  # bytes of the body since the last tick
        self._read = 0  # bytes that the peer had taken at the last tick
        self._receiving, self._sending = Patience(self.limits), Patience(self.limits)

    # --- the connection ---

    def connection_made(self, transport: Any) -> None:
        super().connection_made(LingeringTransport(transport, self._peer_may_send))  # type: ignore[arg-type]
        if self.client is not None and self.client[0].startswith("::ffff:"):  # of IPv4, on a socket for both
            self.client = (str(read_address(self.client[0])), self.client[1])
        self._ticks = self.loop.call_later(TICK_SECONDS, self._tick)
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ticks is not None:
            self._ticks.cancel()
        self._held = b""
        super().connection_lost(exc)

    def _make_room(self) -> None:
        others: Any = [other for other in self.connections if isinstance(other, type(self)) and other is not self]
        lingering = [other for other in others if other.transport.lingering]
        if lingering:  # each has had its answer
            min(lingering, key=lambda other: other.since).transport.abort()
            return
        refused = Refused(503, "too_many_connections", "This process has as many connections as it may have.")
        waiting = [other for other in others if not (other.busy or other.transport.is_closing())]
        if waiting:
            # Those that never sent a request first: an idle one may be a proxy's. Then those with an answer.
            min(waiting, key=lambda other: (other.cycle is not None, other.since)).refuse(refused)
        else:
            self._answer(refused)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _waits_for_head(self) -> bool:
        return self._in_head and not (self.busy or self.transport.is_closing())

    def _peer_may_send(self) -> bool:
        """Whether the peer may still be sending, or has sent what is not read yet."""
        return not self._in_head or bool(self._head) or bool(self._held)

    def shutdown(self) -> None:
        """End the connection once it owes no response, and call the functions of `ON_SHUTDOWN`.

        The server calls this for each connection, so each of those functions is called more than once.
        """
        if self._waits_for_head:
            self._head = b""  # nothing is owed to half a head
        self._receiving.most = self._sending.most = SHUTDOWN_PATIENCE
        if self.transport.lingering and not self.transport.get_write_buffer_size():
            self.transport.abort()
        super().shutdown()
        for function in self.app_state.get(ON_SHUTDOWN, ()):
            function()

    # --- bytes ---

    def data_received(self, data: bytes) -> None:
        self._idle = 0.0
        if self._deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._held:
            self._hold(data)
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Give the parser the requests in `data` one by one, until one has to wait for its turn."""
        start = 0
        while True:
            if self._in_head and self.busy:
                self._hold(data[start:])
                return
            end = self._end_of_part(data, start)
            self._feed_part(data if end - start == len(data) else memoryview(data)[start:end])
            start = end
            if start == len(data) or self._upgraded or self.transport.is_closing():
                return

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Where a request ends at the earliest, so that no part has the heads of two."""
        if not self._in_head and self._body_left is not None:
            return min(len(data), start + self._body_left)
        return self._end_of_head.find(data, start)

    def _feed_part(self, part: bytes | memoryview) -> None:
        try:
            if self._in_head:
                self._head = self._head + part if self._head else bytes(part)
                if len(self._head) > self.limits.head_bytes:
                    limit = f"A request's line and headers may have {self.limits.head_bytes} bytes."
                    raise Refused(431, "head_too_large", limit)
            elif self._body_left is None:
                self._framing_bytes += len(part)
            self._parse(part)
            if self._framing_bytes > self.limits.head_bytes + FRAMING * self._body_bytes:
                raise Refused(400, "malformed", "The chunks of the body are more framing than body.")
        except httptools.HttpParserError as error:
            cause = error.__context__  # of a callback's error: a refusal, or the target's parser
            detail = "The request's target cannot be read." if cause else str(error)
            self.refuse(cause if isinstance(cause, Refused) else Refused(400, "malformed", detail))
        except Refused as refused:
            self.refuse(refused)

    def _parse(self, part: bytes | memoryview) -> None:
        while part:
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._ignored_upgrade:
                    self.handle_websocket_upgrade()
                    return
                self._parse_again()
                part = part[upgrade.args[0] :]
            else:
                return

    def _parse_again(self) -> None:
        """Parse the head again, without its `Upgrade`, at which the parser has ended."""
        self._ignored_upgrade = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        head = without_upgrade(method, self.url, version, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def _should_upgrade(self) -> bool:
        # Else a body behind the head would be read as requests.
        return self._body_left == 0 and self.parser.get_method() == b"GET" and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        self._upgraded = True
        self._head = b""  # or its end would wait for the rest of a request
        if self._ticks is not None:
            self._ticks.cancel()
        super().handle_websocket_upgrade()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > MAX_HELD_BYTES or self._held.count(END_OF_HEAD) > MAX_HELD_REQUESTS:
            self.refuse(Refused(400, "malformed", "Too many requests were sent before their answers."))
        else:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        self.since = next(_moments)
        self.cycle.body.clear()  # what was not read of it
        super().on_response_complete()
        if self._held:
            # Not in the context of the request that has ended.
            self.loop.call_soon(self._feed_held, context=Context())

    def _feed_held(self) -> None:
        if not self.busy and not self.transport.is_closing():
            held, self._held = self._held, b""
            self.flow.resume_reading()  # more may have come, and been held, since the response ended
            self._unset_keepalive_if_required()
            self._feed(held)

    # --- the parser's callbacks ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it must not count as a header (RFC 9110, 6.5.1)
        if len(self.headers) >= self.limits.headers:
            raise Refused(431, "too_many_headers", f"A request may have {self.limits.headers} headers.")
        name = name.lower()
        value = value.rstrip(b" \t")  # no part of the value (RFC 9110, 5.5); the parser leaves those at its end
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        check_protocol(self._head)
        version = self.parser.get_http_version()
        self._body_left = body_length(self.parser.get_method(), version, self.headers)
        self._body_bytes = self._framing_bytes = 0
        if self.url.startswith(b"http") and self.url.count(b"/") == 2:  # an absolute target without a path
            self.url += b"/"
        if self.parser.should_upgrade():
            self._ignored_upgrade = not self._should_upgrade()
            if not self._ignored_upgrade:
                super().on_headers_complete()  # which makes no cycle
            return
        self.expect_100_continue &= version == "1.1"
        super().on_headers_complete()  # raises for a target that is none
        self._keep_alive = self.cycle.keep_alive
        if self.expect_100_continue and self._body_left != 0:
            # A client that is answered instead may send the body or not, and what comes next could be either.
            self.cycle.keep_alive = False
        self._in_head = False
        self._head = b""
        self._late = self._drained = 0.0
        if self._body_left != 0:
            self._receiving.reset()

    def on_body(self, body: bytes) -> None:
        size = len(body)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        self._moved += size
        self._body_bytes += size
        if self._body_left is not None:
            self._body_left -= size
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._ignored_upgrade:
            return  # the parser takes what comes next for another protocol
        self._in_head = True
        super().on_message_complete()

    # --- deadlines ---

    def _tick(self) -> None:
        self._ticks = self.loop.call_later(TICK_SECONDS, self._tick)
        self._idle += TICK_SECONDS
        if self.transport.lingering:
            self._lingered += TICK_SECONDS
            longest = LINGER_IDLE_SECONDS if self._in_head or self._slow else LINGER_SECONDS
            if self._lingered > longest or self._idle > LINGER_IDLE_SECONDS:
                self.transport.abort()
        elif self._waits_for_head:
            # Uvicorn's own timer watches a connection that is idle between two requests.
            self._late += TICK_SECONDS if self.timeout_keep_alive_task is None else 0
            if self._late > self.limits.head_seconds:
                self.refuse(Refused(408, "too_slow", "The request did not come in time."))
        elif not (self.busy or self._in_head):
            self._drained += TICK_SECONDS
            if self._drained > LINGER_SECONDS:
                self.refuse(Refused(408, "too_slow", "The body did not end soon after its response."))
        elif self._awaits_body() and self._receiving.is_over(self._moved, TICK_SECONDS):
            self.refuse(Refused(408, "too_slow", "The body did not come in time."))
        self._moved = 0
        if not self.transport.get_write_buffer_size():
            self._sending.reset()
            self._read = self.transport.written
            return
        read = self.transport.taken()
        if self._sending.is_over(max(0, read - self._read), TICK_SECONDS):
            report(Refused(408, "not_read", "The response was not read."), self.client)
            self.transport.abort()
        self._read = read

    def _awaits_body(self) -> bool:
        return not (self._in_head or self.flow.read_paused or self.cycle.waiting_for_100_continue)

    # --- refusals ---

    def refuse(self, refused: Refused) -> None:
        """End the connection: after the response that is under way, or else with one that says why."""
        self._held = b""
        self._slow = refused.reason == "too_slow"
        if self.busy and self._in_head:  # it concerns a request behind the one that is being answered
            report(refused, self.client)
            self.cycle.keep_alive = self._keep_alive = False
            self._deaf = True
            self.flow.pause_reading()
        elif self.busy and self.cycle.response_started:
            report(refused, self.client)
            self.transport.abort()
        elif self.busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._answer(refused)
        elif self._in_head and self._head:
            self._answer(refused)
        else:  # nothing was asked, or it is answered
            report(refused, self.client, logged=not self._in_head)
            self.transport.close()

    def _answer(self, refused: Refused) -> None:
        report(refused, self.client)
        asked = self.cycle.scope["method"] == "HEAD" if self.busy else asks_for_head(self._head)
        self.transport.write(refused.response(with_body=not asked))
        self.transport.close()
