{{/* A component's HorizontalPodAutoscaler on CPU. Takes (list root component). */}}
{{- define "plinth.hpa" -}}
{{- $root := first . -}}
{{- $component := last . -}}
{{- with (index $root.Values $component).autoscaling }}
{{- if .enabled }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "plinth.fullname" $root }}-{{ $component }}
  namespace: {{ $root.Release.Namespace | quote }}
  labels:
    {{- include "plinth.labels" (list $root $component) | nindent 4 }}
  {{- include "plinth.annotations" (list $root dict) }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "plinth.fullname" $root }}-{{ $component }}
  minReplicas: {{ .minReplicas | int }}
  maxReplicas: {{ .maxReplicas | int }}
  metrics:
    # Of our own container: on the pod's there is no figure as soon as one container, of a mesh perhaps, requests no CPU.
    - type: ContainerResource
      containerResource:
        container: {{ include "plinth.containerName" $component }}
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .targetCPUUtilizationPercentage | int }}
  {{- with .behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}
