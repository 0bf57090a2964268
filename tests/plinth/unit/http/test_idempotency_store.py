"""Fingerprints tell one request from another."""

from plinth.http.idempotency_store import fingerprint


class TestFingerprint:
    def test_is_the_same_for_the_same(self) -> None:
        assert fingerprint(b"POST", b"/items", b"{}") == fingerprint(b"POST", b"/items", b"{}")

    def test_differs_wherever_the_parts_do(self) -> None:
        requests = [
            (b"POST", b"/items", b"{}"),
            (b"PUT", b"/items", b"{}"),
            (b"POST", b"/item", b"{}"),
            (b"POST", b"/items", b"{} "),
            (b"POST", b"/item", b"s{}"),
            (b"POST/items", b"", b"{}"),
            (b"POST", b"/items{}"),
            (),
        ]

        assert len({fingerprint(*parts) for parts in requests}) == len(requests)
