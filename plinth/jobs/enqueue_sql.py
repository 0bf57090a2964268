"""The SQL of enqueuing: inserts jobs, and finds those that have a unique key."""

__all__ = ["INSERT", "INSERT_KEYED", "INSERT_REPLACING", "LIVE", "LIVE_WAITING"]

# One statement for one job or many. Ids are made here, so that each payload is matched to its row by id and not by the
# order of rows. A delay counts from this statement, and not from the begin of a transaction that may be long.
INSERT = """
INSERT INTO job (id, kind, queue, priority, owner, payload, unique_key, max_attempts, run_at, state, trace_context,
    limit_key, unique_while_waiting, batch_id)
SELECT new.id, $2, $3, $4, $5, new.payload::jsonb, new.unique_key, $8, due.at,
    CASE WHEN due.at > now() THEN 'scheduled' ELSE 'available' END, $11::jsonb,
    COALESCE(new.limit_key, ''), $13, $14::uuid
FROM unnest($1::uuid[], $6::text[], $7::text[], $12::text[]) AS new (id, payload, unique_key, limit_key),
    (SELECT COALESCE($9::timestamptz, CASE WHEN $10 > interval '0' THEN clock_timestamp() + $10 ELSE now() END) AS at
    ) AS due
"""
# Leaves out the jobs whose key a live one has.
INSERT_KEYED = (
    f"{INSERT} ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO NOTHING RETURNING id, unique_key"
)
# Replaces those that wait; leaves out the jobs whose key a running one has.
INSERT_REPLACING = f"""{INSERT}
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL DO UPDATE
SET payload = excluded.payload, priority = excluded.priority, run_at = excluded.run_at, state = excluded.state,
    limit_key = excluded.limit_key, unique_while_waiting = excluded.unique_while_waiting
WHERE job.state IN ('scheduled', 'available', 'retryable')
RETURNING id, unique_key
"""
# The live jobs that have the keys, locked so that none of them ends before the transaction. Others may lock them so at
# the same time: enqueues of one key do not wait for each other.
LIVE = (
    "SELECT id, unique_key FROM job WHERE kind = $1 AND unique_key = ANY ($2::text[]) ORDER BY unique_key FOR KEY SHARE"
)
# Where the key is free once a run starts, that is what waits: the run must see what these transactions have written.
LIVE_WAITING = LIVE.replace("FOR KEY SHARE", "FOR SHARE")
