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
    {{- with $values.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
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
