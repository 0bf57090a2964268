"""Follow-up jobs that are inserted together."""

from pydantic import BaseModel

from plinth.jobs import JobContext, JobKind, RetryPolicy
from plinth.jobs.enqueue import prepare
from plinth.jobs.follow_ups import MAX_ROWS, merged


class Number(BaseModel):
    n: int = 0


async def count(ctx: JobContext, payload: Number) -> None: ...


COUNT = JobKind("test.count", count, Number, "default", 0, 60.0, RetryPolicy(), None)


def test_alike_jobs_are_inserted_by_few_statements() -> None:
    """20,000 follow-up jobs of one run took 30 s by a statement each."""
    one_by_one = [prepare(COUNT, [Number(n=n)]) for n in range(2 * MAX_ROWS + 1)]
    others = [prepare(COUNT, [Number()], queue="other"), prepare(COUNT, [Number()], delay=1)]
    insertions = merged([*one_by_one, *others])
    assert [len(insertion.rows) for insertion in insertions] == [MAX_ROWS, MAX_ROWS, 1, 1, 1]
    assert [row for insertion in insertions for row in insertion.rows] == [
        row for insertion in (*one_by_one, *others) for row in insertion.rows
    ]
