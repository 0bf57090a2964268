{{/* The head of a policy for one or more components. Takes (list root name components). */}}
{{- define "plinth.policyHead" -}}
{{- $root := index . 0 -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "plinth.fullname" $root }}-{{ index . 1 }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "plinth.labels" (list $root "networkpolicy") | nindent 4 }}
  {{- include "plinth.annotations" (list $root dict) }}
spec:
  podSelector:
    {{- include "plinth.podsOf" (list $root (index . 2)) | nindent 4 }}
{{- end -}}

{{/* Selects the release's pods of some components. Takes (list root components). */}}
{{- define "plinth.podsOf" -}}
matchLabels:
  {{- omit (include "plinth.selectorLabels" (list (first .) "") | fromYaml) "app.kubernetes.io/component" | toYaml | nindent 2 }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: {{ last . | toJson }}
{{- end -}}

{{- define "plinth.dnsEgress" -}}
- ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . | int }}
      protocol: UDP
    - port: {{ . | int }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Egress rules of the values, with the protocol that the server would fill in. Takes a list. */}}
{{- define "plinth.egressRules" -}}
{{- with deepCopy (. | default list) -}}
{{- range . -}}
{{- range .ports -}}
{{- include "plinth.setMissing" (list . (dict "protocol" "TCP")) -}}
{{- end -}}
{{- end -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}
