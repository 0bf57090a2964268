{{/*
The components of the groups of workers, as a JSON list: `worker` for the group `default`, which is always there, and
`worker-NAME` for another one. From the first call on their values stand in .Values under these names, as every component's
do: those of `worker`, and the group's own over them.
*/}}
{{- define "plinth.workers" -}}
{{- if not (hasKey .Values "workerComponents") -}}
{{- $common := deepCopy .Values.worker -}}
{{- include "plinth.queuesAsSetting" $common -}}
{{- $components := list -}}
{{- range $group, $own := include "plinth.overlaid" (list (dict "default" dict) .Values.workers) | fromYaml -}}
{{- $component := ternary "worker" (printf "worker-%s" $group) (eq $group "default") -}}
{{- $values := $own | default dict | deepCopy -}}
{{- include "plinth.queuesAsSetting" $values -}}
{{- /* Of two keys that exclude each other the group's own counts. */ -}}
{{- if hasKey ($values.pdb | default dict) "maxUnavailable" -}}
{{- $_ := set $values.pdb "minAvailable" $values.pdb.minAvailable -}}
{{- end -}}
{{- $inherited := deepCopy $common -}}
{{- if hasKey $values "maxSurge" -}}
{{- $inherited = omit $inherited "strategy" -}}
{{- end -}}
{{- include "plinth.inherit" (list $values $inherited) -}}
{{- /* Of these null has a meaning where they are read. */ -}}
{{- include "plinth.dropNulls" (omit $values "config" "podSecurityContext" "securityContext" "affinity") -}}
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

{{/* The queues of a group as the setting that they are, so that the nearer of the two counts. Takes its values. */}}
{{- define "plinth.queuesAsSetting" -}}
{{- with .queues -}}
{{- $_ := set $ "config" (set ($.config | default dict) "JOBS_QUEUES" .) -}}
{{- end -}}
{{- end -}}
