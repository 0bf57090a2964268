"""A batch of exports that take seconds each, so that something can happen to the workers that run them."""

from tests.e2e.release import Release, caller
from tests.e2e.traffic import exports_are_made

# No user may have more than five exports under way.
OWNERS, EXPORTS = 4, 4
ITEMS = 100_000


def ask_for_a_batch(release: Release) -> list[str]:
    """Make owners with many items, and have each ask for their exports. The ids of the exports."""
    owners = [f"batch-{number}" for number in range(OWNERS)]
    release.sql(
        "INSERT INTO item (owner, name, description, tags)"
        " SELECT 'batch-' || owner, 'item ' || n, repeat('x', 100), '{}'"
        f" FROM generate_series(0, {OWNERS - 1}) owner, generate_series(1, {ITEMS}) n"
    )
    return [export for token in release.tokens(*owners) for export in _asked_for(token)]


def batch_is_whole(release: Release, exports: list[str]) -> None:
    """Each export was made once, and holds every item of its owner."""
    exports_are_made(release, exports, within=180)
    whole = (
        "SELECT count(*), count(DISTINCT (owner, digest)) FROM export"
        f" WHERE owner LIKE 'batch-%' AND item_count = {ITEMS}"
    )
    assert release.sql(whole) == f"{OWNERS * EXPORTS}|{OWNERS}"


def _asked_for(token: str) -> list[str]:
    with caller(token) as http:
        answers = [http.post("exports", json={"format": "csv"}).raise_for_status() for _ in range(EXPORTS)]
        return [answer.json()["id"] for answer in answers]
