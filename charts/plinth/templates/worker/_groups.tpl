{{/*
The components of the groups of workers, as a JSON list: `worker` for the group `default`, which is always there, and
`worker-NAME` for another one. From the first call on their values stand in .Values under these names, as every component's
do: those of `worker`, and the group's own over them.
*/}}
{{- define "plinth.workers" -}}
{{- if not (hasKey .Values "workerComponents") -}}
{{- $common := .Values.worker -}}
{{- $components := list -}}
{{- range $group, $own := include "plinth.overlaid" (list (dict "default" dict) .Values.workers) | fromYaml -}}
{{- $component := ternary "worker" (printf "worker-%s" $group) (eq $group "default") -}}
{{- $values := $own | default dict | deepCopy -}}
{{- include "plinth.setMissing" (list $values (deepCopy $common)) -}}
{{- with $values.queues -}}
{{- $_ := set $values "config" (set ($values.config | default dict) "JOBS_QUEUES" .) -}}
{{- end -}}
{{- $_ := set $.Values $component $values -}}
{{- $components = append $components $component -}}
{{- end -}}
{{- $_ := set .Values "workerComponents" $components -}}
{{- end -}}
{{ toJson .Values.workerComponents }}
{{- end -}}

{{/* Non-empty for the API and the workers, which are watched: they have metrics and traces. Takes a component. */}}
{{- define "plinth.watched" -}}
{{- if or (eq . "api") (hasPrefix "worker" .) }}true{{ end -}}
{{- end -}}

{{/* Non-empty if KEDA scales a group. */}}
{{- define "plinth.kedaScales" -}}
{{- range $component := include "plinth.workers" . | fromJsonArray -}}
{{- if (index $.Values $component).keda.enabled }}true{{ end -}}
{{- end -}}
{{- end -}}
