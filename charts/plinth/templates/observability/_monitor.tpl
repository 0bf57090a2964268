{{/* What a monitor asks of each target, and how. Takes its values. */}}
{{- define "plinth.scrapeEndpoint" -}}
{{- $values := . -}}
- port: metrics
  path: /metrics
  interval: {{ $values.interval }}
  {{- with $values.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  relabelings:
    # One that still waits for the migration does not listen yet, and is not down.
    - sourceLabels: [__meta_kubernetes_pod_phase]
      regex: Running
      action: keep
    {{- with include "plinth.relabelings" $values.relabelings }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- with include "plinth.relabelings" $values.metricRelabelings }}
  metricRelabelings:
    {{- . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Relabelings with the action that the server would fill in, or a GitOps tool sees a difference for ever. Takes a list. */}}
{{- define "plinth.relabelings" -}}
{{- $relabelings := list -}}
{{- range . -}}
{{- $relabelings = append $relabelings (include "plinth.overlaid" (list (dict "action" "replace") .) | fromYaml) -}}
{{- end -}}
{{- with $relabelings }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* A duration as Prometheus writes it, in milliseconds. */}}
{{- define "plinth.milliseconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- if hasSuffix "ms" . -}}
{{ $number }}
{{- else -}}
{{ mul $number (ternary 1000 60000 (hasSuffix "s" .)) }}
{{- end -}}
{{- end -}}
