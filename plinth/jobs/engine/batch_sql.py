"""The SQL of batches that workers tend, and of the children of cancelled jobs.

Whether a batch has a live member is asked by a subquery with a LIMIT: for a few batches the planner might otherwise
join them with all members of all batches.
"""

from plinth.jobs.engine.sql import COMMON_COLUMNS, HISTORY_COLUMNS

__all__ = ["CANCEL_CHOSEN", "CANCEL_MEMBERS", "CHILDREN", "ORPHANS", "OVER", "OVER_AMONG"]

MAX_BATCHES = 500  # in one look
MAX_MEMBERS = 10_000  # in one statement

_OVER = "finished_at IS NULL AND (SELECT true FROM job WHERE batch_id = job_batch.id LIMIT 1) IS NULL"
OVER_AMONG = f"SELECT id FROM job_batch WHERE id = ANY ($1::uuid[]) AND {_OVER} ORDER BY id"
# Those that a worker left behind which was lost between the end of their last member and theirs.
OVER = f"SELECT id FROM job_batch WHERE {_OVER} ORDER BY id LIMIT {MAX_BATCHES}"

# The open batches of children of these jobs.
CHILDREN = "SELECT id FROM job_batch WHERE parent_id = ANY ($1::uuid[]) AND finished_at IS NULL ORDER BY id"
# The parents of open batches of children that were cancelled or deleted.
ORPHANS = f"""
SELECT DISTINCT parent_id FROM job_batch
WHERE finished_at IS NULL AND parent_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM job WHERE job.id = parent_id)
    AND NOT EXISTS (SELECT FROM job_history WHERE job_history.id = parent_id AND state <> 'cancelled')
LIMIT {MAX_BATCHES}
"""

# Cancels the jobs of the CTE `chosen`: those that wait end, those that run are told to.
CANCEL_CHOSEN = f"""told AS (
    UPDATE job SET cancel_requested_at = COALESCE(cancel_requested_at, now())
    WHERE id = ANY (ARRAY(SELECT id FROM chosen WHERE state = 'running'))
), ended AS (
    DELETE FROM job WHERE id = ANY (ARRAY(SELECT id FROM chosen WHERE state <> 'running')) RETURNING *
), kept AS (
    INSERT INTO job_history ({HISTORY_COLUMNS})
    SELECT {COMMON_COLUMNS}, attempt, errors, 'cancelled', now() FROM ended
)"""
CANCEL_MEMBERS = f"""
WITH chosen AS MATERIALIZED (
    SELECT id, state FROM job WHERE batch_id = ANY ($1::uuid[]) AND cancel_requested_at IS NULL
    ORDER BY batch_id, id LIMIT {MAX_MEMBERS} FOR UPDATE SKIP LOCKED
), {CANCEL_CHOSEN}
SELECT id, state = 'running' AS running FROM chosen
"""
