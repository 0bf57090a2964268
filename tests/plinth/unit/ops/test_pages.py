"""Where a sign-in may lead, and the fields of forms."""

import pytest
from starlette.requests import Request

from plinth.errors import BadRequestError
from plinth.ops.pages import own_path, read_form


@pytest.mark.parametrize("path", ["/ops", "/ops/", "/ops/jobs/1-2", "/ops?kind=a.b&since=..", "/ops/kinds/a%20b?x=%2F"])
def test_own_path_is_kept(path: str) -> None:
    assert own_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "/", "ops", "/opsx", "//ops", "https://ops", "/ops/../x", "/ops/%2E%2e/x", "/ops/\\x", "/ops/\n", "/ops/é"],
)
def test_any_other_path_becomes_the_first_page(path: str) -> None:
    assert own_path(path) == "/ops"


def request_with(body: bytes, content_type: str = "application/x-www-form-urlencoded") -> Request:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}
    return Request(scope, receive)


async def test_form_is_read() -> None:
    form = await read_form(
        request_with(b"id=1&id=2&text=a+b%C3%A4&empty=", "application/x-www-form-urlencoded; charset=x")
    )
    assert (form.getlist("id"), form["text"], form["empty"]) == (["1", "2"], "a bä", "")


async def test_body_of_another_type_has_no_fields() -> None:
    assert not await read_form(request_with(b"csrf=1", "text/plain"))


@pytest.mark.parametrize("body", [b"\xff=1", b"a=%ff", b"&".join([b"a=1"] * 1001)])
async def test_form_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        await read_form(request_with(body))
