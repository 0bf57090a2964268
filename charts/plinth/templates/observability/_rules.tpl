{{/*
What is filled in for each `${name}` of the rules, as YAML. Every figure has one place: what is promised stands in the
values, and what follows from another value is computed from it.
*/}}
{{- define "plinth.ruleValues" -}}
{{- $name := include "plinth.fullname" . -}}
{{- $rules := .Values.metrics.rules -}}
{{- $components := include "plinth.workers" . | fromJsonArray -}}
{{- $timeout := (include "plinth.config" (list . "worker") | fromYaml).JOBS_SESSION_TIMEOUT | default 10 -}}
{{- $workers := 0 -}}
{{- range $component := $components -}}
{{- $config := include "plinth.config" (list $ $component) | fromYaml -}}
{{- $timeout = minf $timeout ($config.JOBS_SESSION_TIMEOUT | default 10) -}}
{{- $workers = add $workers (include "plinth.leastReplicas" (index $.Values $component) | int) -}}
{{- end -}}
namespace: {{ .Release.Namespace | quote }}
release: {{ $name | quote }}
pods: {{ printf "namespace=%q,pod=~%q" .Release.Namespace (printf "%s-(api|worker)-.+" $name) | squote }}
recorded: {{ printf "namespace=%q,release=%q" .Release.Namespace $name | squote }}
{{- /* They stand between double quotes there, and may have some. */}}
{{- range $part, $text := merge (dict "runbooks" $rules.runbookUrl) $rules.severities }}
{{ $part }}: {{ $text | toJson | trimPrefix "\"" | trimSuffix "\"" | quote }}
{{- end }}
late: {{ include "plinth.scalar" $rules.lateSeconds | quote }}
# A worker beats four times within the time after which its session is over; half of it means that a beat has failed.
heartbeat: {{ divf $timeout 2 | quote }}
migrationDeadline: {{ include "plinth.scalar" .Values.migrate.activeDeadlineSeconds | quote }}
apiReplicas: {{ include "plinth.leastReplicas" .Values.api | quote }}
workerReplicas: {{ $workers | quote }}
{{- range $objective, $promise := $rules.objectives }}
{{ $objective }}: {{ include "plinth.scalar" $promise.percent | quote }}
{{ $objective }}Minimum: {{ include "plinth.scalar" $promise.minimum | quote }}
{{- with $promise.seconds }}
{{- /* A pattern of how bounds are spelt: 60.0 by the service and Prometheus 3, 60 behind an OpenTelemetry Collector. */}}
{{ $objective }}Seconds: {{ printf "%v" . | replace "." "[.]" }}{{ ternary "([.]0)?" "" (eq (floor .) (float64 .)) }}
{{- end }}
{{- if hasKey $promise "exceptRoutes" }}
{{ $objective }}ExceptRoutes: {{ $promise.exceptRoutes | squote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How many pods of a component there should be at the least. Takes its values. */}}
{{- define "plinth.leastReplicas" -}}
{{- if .autoscaling.enabled -}}
{{ int .autoscaling.minReplicas }}
{{- else if (.keda | default dict).enabled -}}
{{ int .keda.minReplicas }}
{{- else -}}
{{ int .replicas }}
{{- end -}}
{{- end -}}

{{/*
The groups of a file of rules, filled in; an alert's own labels win over the values'. Takes (list root path).
*/}}
{{- define "plinth.ruleGroups" -}}
{{- $text := (first .).Files.Get (last .) -}}
{{- range $name, $value := include "plinth.ruleValues" (first .) | fromYaml -}}
{{- $text = $text | replace (printf "${%s}" $name) $value -}}
{{- end -}}
{{- $read := $text | fromYaml -}}
{{- if not $read.groups -}}
{{- fail (printf "%s has no groups of rules, so no alert of it would fire: %s" (last .) ($read.Error | default "it is to be as the files beside it, groups: [{name, rules}]")) -}}
{{- end -}}
{{- $groups := $read.groups -}}
{{- range $groups -}}
{{- range .rules -}}
{{- if .alert -}}
{{- $_ := set . "labels" (merge (.labels | default dict) (first $).Values.metrics.rules.additionalLabels) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ $groups | toYaml }}
{{- end -}}
