"""The rules for a request's head that llhttp leaves open: one host, one caller, one length of the body."""

from collections.abc import Sequence

from plinth.http.refusals import Refused

__all__ = ["END_OF_HEAD", "EndOfHead", "asks_for_head", "body_length", "check_protocol", "without_upgrade"]

END_OF_HEAD = b"\r\n\r\n"


class EndOfHead:
    """Finds where a head ends, also where its line breaks begin in one segment and end in the next."""

    def __init__(self) -> None:
        self._tail = b""  # the last bytes of the segments before

    def find(self, data: bytes, start: int) -> int:
        """Return where the head ends in a segment, or else the segment's length."""
        tail, self._tail = self._tail, b""
        if tail:
            end = (tail + data[start : start + 3]).find(END_OF_HEAD)
            if end >= 0:
                return start + end + len(END_OF_HEAD) - len(tail)
        end = data.find(END_OF_HEAD, start)
        if end < 0:
            self._tail = (tail + data[max(start, len(data) - 3) :])[-3:]
            return len(data)
        return end + len(END_OF_HEAD)


def check_protocol(head: bytes) -> None:
    """Check that the request line of a head that is complete names HTTP/1.1 or HTTP/1.0.

    llhttp takes `GET / RTSP/1.1` and `SOURCE / ICE/1.0` for requests as well, and does not tell the difference.

    Raises:
        Refused: it names another protocol or version.
    """
    request = head.lstrip(b"\r\n")
    if not request.endswith((b" HTTP/1.1", b" HTTP/1.0"), 0, request.find(b"\r\n")):
        raise Refused(505, "not_implemented", "This server speaks HTTP/1.1.")


def asks_for_head(head: bytes) -> bool:
    """Whether a request that begins with these bytes has the method HEAD."""
    return head.lstrip(b"\r\n").startswith(b"HEAD ")


def body_length(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Check a head with lower-case names, and return the length of its body; None: it comes in chunks.

    Raises:
        Refused: a proxy might read the head in another way, or it asks for what this server does not do.
    """
    if method == b"CONNECT":
        raise Refused(501, "not_implemented", "This server is no proxy.")
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Refused(400, "malformed", "A request needs exactly one Host.")
    if names.count(b"authorization") > 1:
        raise Refused(400, "malformed", "A request may have one Authorization.")
    if b"content-length" in names:
        return int(headers[names.index(b"content-length")][1])
    if b"transfer-encoding" not in names:
        return 0
    if version == "1.0":
        raise Refused(400, "malformed", "HTTP/1.0 has no Transfer-Encoding.")
    if headers[names.index(b"transfer-encoding")][1].lower() != b"chunked":
        raise Refused(501, "not_implemented", "The only transfer coding here is chunked.")
    return None


def without_upgrade(method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write a head again, without `Upgrade`."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
