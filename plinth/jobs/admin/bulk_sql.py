"""The SQL of acts on many jobs.

$1: states, $2: kind, $3: queue, $4: owner, $5: how many at most, $6: ids, $7: batch, $8 and $9: the first id and the
one after the last, $10: a text in an error; null is any.
"""

from plinth.jobs.admin.sql import AGAIN, BACK, ERROR_HAS, KEY_IS_FREE, NUMBER_BACK
from plinth.jobs.engine.batch_sql import CANCEL_CHOSEN

__all__ = [
    "CANCEL_MANY",
    "COUNT_MANY",
    "COUNT_RETRY_MANY",
    "DELETE_MANY",
    "PRIORITISE_MANY",
    "RETRY_MANY",
    "RUN_NOW_MANY",
]

_FITS = f"""
state = ANY ($1::text[]) AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR queue = $3)
    AND ($4::text IS NULL OR owner = $4) AND ($6::uuid[] IS NULL OR id = ANY ($6))
    AND ($7::uuid IS NULL OR batch_id = $7) AND ($8::uuid IS NULL OR id >= $8) AND ($9::uuid IS NULL OR id < $9)
    AND ($10::text IS NULL OR {ERROR_HAS.format(text="$10")})
"""
_CHOSEN = f"SELECT id, state, queue, batch_id FROM {{table}} WHERE {_FITS} ORDER BY id LIMIT $5"
_LOCKED = f"WITH chosen AS MATERIALIZED ({_CHOSEN.format(table='job')} FOR UPDATE SKIP LOCKED)"
_CHOSEN_IDS = "ARRAY(SELECT id FROM chosen)"

COUNT_MANY = f"""
SELECT count(*) FROM (
    ({_CHOSEN.format(table="job")}) UNION ALL ({_CHOSEN.format(table="job_history")}) LIMIT $5) AS chosen
"""
CANCEL_MANY = f"""
{_LOCKED}, {CANCEL_CHOSEN}
SELECT id, queue, state = 'running' AS running, batch_id FROM chosen
"""
DELETE_MANY = f"""
{_LOCKED}, ended AS MATERIALIZED (
    {_CHOSEN.format(table="job_history")} FOR UPDATE SKIP LOCKED
), gone AS (
    SELECT id, queue, batch_id FROM chosen UNION ALL SELECT id, queue, batch_id FROM ended LIMIT $5
), live AS (
    DELETE FROM job WHERE id = ANY (ARRAY(SELECT id FROM gone))
), old AS (
    DELETE FROM job_history WHERE id = ANY (ARRAY(SELECT id FROM gone))
), steps AS (
    DELETE FROM job_step WHERE job_id = ANY (ARRAY(SELECT id FROM gone))
), keys AS (
    DELETE FROM job_key_hold WHERE job_id = ANY (ARRAY(SELECT id FROM gone))
)
SELECT id, queue, false AS running, batch_id FROM gone
"""
RUN_NOW_MANY = f"""
{_LOCKED}, due AS (UPDATE job SET state = 'available', run_at = now() WHERE id = ANY ({_CHOSEN_IDS}))
SELECT id, queue, false AS running, batch_id FROM chosen
"""
PRIORITISE_MANY = f"""
{_LOCKED}, changed AS (UPDATE job SET priority = $11 WHERE id = ANY ({_CHOSEN_IDS}))
SELECT id, queue, false AS running, batch_id FROM chosen
"""
# With all columns, for `BACK`.
_ENDED = f"SELECT * FROM job_history WHERE {_FITS} AND {KEY_IS_FREE} ORDER BY id LIMIT $5"
COUNT_RETRY_MANY = f"SELECT {NUMBER_BACK} FROM ({_ENDED}) AS chosen"
RETRY_MANY = f"""
WITH chosen AS MATERIALIZED ({_ENDED} FOR UPDATE SKIP LOCKED), back AS ({BACK.format(source="chosen")}),
again AS ({AGAIN}),
left_history AS (DELETE FROM job_history USING back WHERE job_history.id = back.id RETURNING job_history.*)
SELECT id, queue, false AS running, batch_id FROM left_history
"""
