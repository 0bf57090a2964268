{{/* A quantity of Kubernetes as a number. */}}
{{- define "plinth.quantity" -}}
{{- if kindIs "string" . -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{ mulf (trimSuffix $unit .) (index $units $unit) }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}
