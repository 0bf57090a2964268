"""Request fingerprints for idempotency."""

from plinth.http.idempotency import fingerprint_of


class TestFingerprint:
    def test_equal_requests_have_one_fingerprint(self) -> None:
        assert fingerprint_of(b"POST", b"/items", b"{}") == fingerprint_of(b"POST", b"/items", b"{}")

    def test_different_requests_have_different_fingerprints(self) -> None:
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

        assert len({fingerprint_of(*parts) for parts in requests}) == len(requests)
