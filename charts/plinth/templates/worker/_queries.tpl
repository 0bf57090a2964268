{{/* The queues that a group of workers serves and that are not paused: more workers would not help other queues.
Takes (list root component). */}}
{{- define "plinth.servedQueues" -}}
{{- $queues := (include "plinth.config" . | fromYaml).JOBS_QUEUES | default "default" -}}
{{- $names := list -}}
{{- range splitList "," (include "plinth.scalar" $queues) -}}
{{- $names = append $names (printf "'%s'" (trim . | replace "'" "''")) -}}
{{- end -}}
SELECT name FROM unnest(ARRAY[{{ join ", " $names }}]) AS name
WHERE name NOT IN (SELECT job_queue.name FROM job_queue)
{{- end -}}

{{/*
Jobs whose time may not have come. `waiting` goes through their index from one queue and priority to the next, of which
the first is due before the others.
*/}}
{{- define "plinth.waiting" -}}
waiting AS (
  (SELECT queue, priority, run_at FROM job WHERE state IN ('scheduled', 'retryable')
    ORDER BY queue, priority, run_at LIMIT 1)
  UNION ALL
  SELECT next.* FROM waiting, LATERAL (
    SELECT queue, priority, run_at FROM job
    WHERE state IN ('scheduled', 'retryable') AND (queue, priority) > (waiting.queue, waiting.priority)
    ORDER BY queue, priority, run_at LIMIT 1) AS next
)
{{- end -}}

{{/*
Jobs that are due or running. No count goes on past what already asks for every worker there may be, so the query takes
the same time over a backlog of a million. Takes (list root component).
*/}}
{{- define "plinth.dueAndRunning" -}}
{{- $keda := (index (first .).Values (last .)).keda -}}
{{- $enough := mul $keda.maxReplicas $keda.jobsPerReplica -}}
WITH RECURSIVE served AS MATERIALIZED (
{{ include "plinth.servedQueues" . | indent 2 }}
), {{ include "plinth.waiting" . }}
SELECT COALESCE(sum(figure), 0) FROM (
  SELECT count(*) AS figure FROM (
    SELECT FROM served, LATERAL (
      SELECT FROM job WHERE state = 'available' AND queue = served.name
      ORDER BY kind, limit_key, priority, run_at, id LIMIT {{ $enough }}) AS line
    LIMIT {{ $enough }}) AS available
  UNION ALL
  SELECT count(*) FROM (
    SELECT FROM (SELECT * FROM waiting LIMIT 1000) AS level, LATERAL (
      SELECT FROM job
      WHERE state IN ('scheduled', 'retryable') AND run_at <= now()
        AND job.queue = level.queue AND job.priority = level.priority
      ORDER BY run_at LIMIT {{ $enough }}) AS line
    WHERE level.queue IN (SELECT name FROM served) AND level.run_at <= now()
    LIMIT {{ $enough }}) AS due
  UNION ALL
  SELECT count(*) FROM (SELECT queue FROM job WHERE state = 'running' LIMIT {{ $enough }}) AS running
  WHERE queue IN (SELECT name FROM served)
) AS counts
{{- end -}}

{{/*
Seconds for which the oldest due job has waited. `hops` goes through the claim's index from one kind, key and priority to
the next, of which the first has waited longest: it reads a row for each, whatever the backlog. Takes (list root component).
*/}}
{{- define "plinth.oldestDueAge" -}}
WITH RECURSIVE served AS MATERIALIZED (
{{ include "plinth.servedQueues" . | indent 2 }}
), hops AS (
  (SELECT queue, kind, limit_key, priority, run_at FROM job WHERE state = 'available'
    ORDER BY queue, kind, limit_key, priority, run_at, id LIMIT 1)
  UNION ALL
  SELECT next.* FROM hops, LATERAL (
    SELECT queue, kind, limit_key, priority, run_at FROM job
    WHERE state = 'available'
      AND (queue, kind, limit_key, priority) > (hops.queue, hops.kind, hops.limit_key, hops.priority)
    ORDER BY queue, kind, limit_key, priority, run_at, id LIMIT 1) AS next
), {{ include "plinth.waiting" . }}, due AS (
  SELECT queue, run_at FROM (SELECT queue, run_at FROM hops LIMIT 1000) AS available
  UNION ALL
  SELECT queue, run_at FROM (SELECT queue, run_at FROM waiting LIMIT 1000) AS level WHERE run_at <= now()
)
SELECT COALESCE(EXTRACT(epoch FROM now() - min(run_at)), 0)::float8 FROM due WHERE queue IN (SELECT name FROM served)
{{- end -}}
