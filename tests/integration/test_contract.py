"""The service keeps what its OpenAPI document says: requests by the hundred, made from the document alone.

Schemathesis sends what the document allows and what it forbids, and holds each answer against it: status, media
type, headers, schema, never a 5xx. Every check that it has is on.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, TypeAlias

import httpx
import pytest
import schemathesis
from hypothesis import settings as hypothesis_settings
from schemathesis import Case as AnyCase
from schemathesis import GenerationMode

from app.business import exports  # sample
from app.core.config import Settings
from app.main import create_app
from plinth.identity import sign_local_token
from plinth.testing import serving, settings_for_tests

EXAMPLES = 8
STEPS = 6

document = create_app(settings_for_tests(Settings)).openapi()
schema = schemathesis.openapi.from_dict(
    document,
    config=schemathesis.Config.from_dict(
        {
            "generation": {"deterministic": True, "max-examples": EXAMPLES},
            "checks": {
                # 412 beside the usual ones: a well-formed If-Match may well name another version.
                "positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", 401, 403, 404, 409, 412, 429]},
                "missing_required_header": {"expected-statuses": [428]},
            },
        }
    ),
)
unused = count()

# The server's thread draws random numbers, trace ids for instance, while Hypothesis makes the next request.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

Case: TypeAlias = AnyCase[Any]


@pytest.fixture(scope="module")
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(RATE_LIMIT="1000000/minute", OPERATOR_ROLE="operator")


# sample: begin
@pytest.fixture(scope="module", autouse=True)
def _no_end_of_exports() -> Iterator[None]:
    """No worker runs here, so every export is unfinished, and soon there would be too many for any answer but 409."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "MAX_UNFINISHED", 1_000_000)
        patch.setattr(exports, "MAX_KEPT", 1_000_000)
        yield


# sample: end
@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with serving(create_app(settings)) as url:
        yield url


@pytest.fixture(scope="module")
def caller(settings: Settings) -> dict[str, str]:
    """The headers of an operator, which may call every operation."""
    token = sign_local_token(settings, subject="alice", ttl=600, roles=["operator"])
    return {"Authorization": f"Bearer {token}"}


def make_possible(case: Case) -> None:
    """Take out of a valid request what no document can tell a client about."""
    if case.meta is None or case.meta.generation.mode is GenerationMode.NEGATIVE:
        return
    # A cursor is signed, so none can be made up. `test_items.py` looks at them.
    case.query.pop("cursor", None)
    # A key that another request has used is refused. `test_idempotency.py` looks at that.
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"key-{next(unused)}"


def test_tested_document_is_the_served_openapi_document(url: str) -> None:
    assert httpx.get(f"{url}/api/v1/openapi.json").json() == document


@schema.parametrize()
def test_each_operation_conforms_to_the_openapi_document(case: Case, url: str, caller: dict[str, str]) -> None:
    make_possible(case)
    case.call_and_validate(base_url=url, headers=caller)


def test_linked_operations_conform_to_the_openapi_document(url: str, caller: dict[str, str]) -> None:
    # A job that is there has a stream that goes on for minutes. `test_job_events.py` looks at those.
    answering = schema.exclude(path_regex="/events$")

    class Client(answering.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Case) -> None:
            make_possible(case)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": url, "headers": caller}

    Client.run(
        settings=hypothesis_settings(
            derandomize=True, max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None
        )
    )
