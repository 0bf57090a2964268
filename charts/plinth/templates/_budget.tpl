{{/*
The most pods of a component that there can be at once: in a roll-out all the old ones may still be leaving while all the
new ones are there already. Takes (list root component).
*/}}
{{- define "plinth.podsAtOnce" -}}
{{- $values := index (first .).Values (last .) -}}
{{- $keda := $values.keda | default dict -}}
{{- $most := int $values.replicas -}}
{{- if $values.autoscaling.enabled -}}
{{- $most = int $values.autoscaling.maxReplicas -}}
{{- else if $keda.enabled -}}
{{- $most = int $keda.maxReplicas -}}
{{- end -}}
{{ mul 2 $most }}
{{- end -}}

{{/* Connections of one pod: its pool, and those it keeps beside it. Takes (list root component beside). */}}
{{- define "plinth.connectionsOfPod" -}}
{{- $config := include "plinth.config" (list (index . 0) (index . 1)) | fromYaml -}}
{{ add ($config.DB_POOL_SIZE | int) ($config.DB_MAX_OVERFLOW | int) (index . 2) }}
{{- end -}}

{{- define "plinth.maxConnections" -}}
{{- if .Values.cloudnativepg.pooler.enabled -}}
{{ (include "plinth.poolerSpec" . | fromYaml).pgbouncer.parameters.max_client_conn | int }}
{{- else if .Values.cloudnativepg.enabled -}}
{{ include "plinth.clusterConnections" . }}
{{- else -}}
{{ ternary .Values.postgresql.maxConnections .Values.externalDatabase.maxConnections .Values.postgresql.enabled | int }}
{{- end -}}
{{- end -}}

{{/* max_connections of each instance of the Cluster. */}}
{{- define "plinth.clusterConnections" -}}
{{ (include "plinth.clusterSpec" . | fromYaml).postgresql.parameters.max_connections | int }}
{{- end -}}
