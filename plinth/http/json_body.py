"""Bodies that are JSON: what counts as JSON, and one reading of it (RFC 8259)."""

import json
from email.message import Message
from typing import Any, NoReturn

from starlette.types import Scope

from plinth.errors import ValidationError
from plinth.http.error_handlers import MAX_NAME_LENGTH
from plinth.http.routes import route_of

__all__ = ["check_json", "is_json", "takes_json"]


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON for FastAPI: `application/json` or `application/…+json`."""
    if content_type == "application/json":
        return True
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def takes_json(scope: Scope) -> bool:
    """Whether the endpoint of a request that has been routed declares a body, and that as JSON."""
    field = getattr(route_of(scope), "body_field", None)
    return field is not None and is_json(getattr(field.field_info, "media_type", ""))


def check_json(body: bytes) -> None:
    """Check what Python's parser, and so FastAPI, would let through or read in its own way.

    That is UTF-16 and UTF-32, a name that comes twice in an object, of which other parsers take the first or refuse
    both, and numbers beyond JSON: NaN, Infinity, 1e999. A byte order mark is ignored, as RFC 8259 allows.

    Raises:
        ValidationError: it is not JSON.
    """
    try:
        _DECODER.decode(body.decode("utf-8-sig"))
    except _Refused as refused:
        raise _invalid(str(refused)) from None
    except UnicodeDecodeError:
        raise _invalid("JSON is encoded in UTF-8") from None
    except json.JSONDecodeError as error:
        raise _invalid("JSON decode error", error.pos) from None
    except RecursionError:
        raise _invalid("The nesting is too deep") from None
    except ValueError:  # Python's bound on the digits of an integer
        raise _invalid("A number is too long") from None


class _Refused(Exception):
    pass


def _invalid(message: str, *position: int) -> ValidationError:
    issue = {"loc": ["body", *position], "msg": message, "type": "json_invalid"}
    return ValidationError("The request is not valid; `errors` says where.", errors=[issue])


def _check_names(members: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    if len(members) != len({name for name, _ in members}):
        for name, _ in members:
            if name in names:
                raise _Refused(f"{json.dumps(name[:MAX_NAME_LENGTH])} comes twice in an object")
            names.add(name)


def _check_number(text: str) -> None:
    if float(text) in (float("inf"), float("-inf")):
        raise _Refused("A number is too large")


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON")


# It keeps no object and no float: what it returns is not used.
_DECODER = json.JSONDecoder(object_pairs_hook=_check_names, parse_float=_check_number, parse_constant=_refuse_constant)
