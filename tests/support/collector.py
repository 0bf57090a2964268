"""A trace collector on loopback: takes what OTLP/HTTP brings, or is in one of the states that collectors get into."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

__all__ = ["Collector", "Recorded", "collecting"]

PATIENCE = 20.0  # seconds, for what takes milliseconds on an idle machine

Behaviour = Literal["takes", "refuses", "redirects", "floods", "hangs"]


@dataclass(frozen=True)
class Recorded:
    """A span as it arrived. Ids in hexadecimal digits; no parent is an empty one. `scope` tells apart
    those of one export."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    resource: dict[str, Any]
    scope: int
    flags: int
    tracestate: str
    seconds: float


@dataclass
class Collector:
    url: str
    behaviour: Behaviour = "takes"
    requests: int = 0
    flooded: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Recorded] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str, count: int = 1) -> list[Recorded]:
        """The spans of that name, once there are so many."""
        deadline = monotonic() + PATIENCE
        while len(found := [span for span in self.spans if span.name == name]) < count:
            assert monotonic() < deadline, f"{name} did not come; there is {[span.name for span in self.spans]}"
            sleep(0.01)
        return found

    def one(self, name: str) -> Recorded:
        """The span of that name, which has to be the only one."""
        (span,) = self.named(name)
        return span


@contextmanager
def collecting(behaviour: Behaviour = "takes") -> Iterator[Collector]:
    """A collector for as long as the block lasts."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests += 1
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if collector.behaviour == "hangs":
                collector.released.wait()
                return
            if collector.behaviour == "takes":
                assert self.path.partition("?")[0] == "/v1/traces"
                collector.spans += _read(ExportTraceServiceRequest.FromString(body))
            if collector.behaviour == "floods":
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):
                    while not collector.released.is_set():
                        collector.flooded += self.wfile.write(bytes(65_536))
                return
            if collector.behaviour == "takes":
                self.send_response(200)
            elif collector.behaviour == "redirects":
                self.send_response(308)
                self.send_header("Location", "/v1/traces")
            else:
                self.send_response(400, 1000 * "no-")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    collector.url = f"http://127.0.0.1:{server.server_port}"
    collector.behaviour = behaviour
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _read(request: ExportTraceServiceRequest) -> Iterator[Recorded]:
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for number, scope in enumerate(group.scope_spans):
            for span in scope.spans:
                yield Recorded(
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    attributes=_attributes(span.attributes),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    resource=resource,
                    scope=number,
                    flags=span.flags,
                    tracestate=span.trace_state,
                    seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
