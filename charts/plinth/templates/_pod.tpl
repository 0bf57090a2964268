{{/*
The one pod of API, worker, migration and test: everything in which they are alike. What makes each of them what it is,
its command, ports, probes and hooks, stands in its own file and comes in as `container`.

Takes a dict:
  root       the chart's root
  component  api, worker, migrate or tests: the key of its values
  container  YAML of what only its main container has
  wait       whether it begins only when the database has this version's migrations
  restart    restartPolicy, where it is not Always
  account    the service account, where it is not the component's own
*/}}
{{- define "plinth.podTemplate" -}}
{{- $values := index .root.Values .component -}}
metadata:
  labels:
    {{- include "plinth.selectorLabels" (list .root .component) | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := merge (include "plinth.scrapeAnnotations" (list .root .component) | fromYaml) (include "plinth.keyAnnotation" .root | fromYaml) }}
  {{- with merge (deepCopy ($values.podAnnotations | default dict)) $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "plinth.podSpec" . | nindent 2 }}
{{- end -}}

{{/* How a Prometheus without the operator is told of a pod. Takes (list root component). */}}
{{- define "plinth.scrapeAnnotations" -}}
{{- if and (first .).Values.metrics.scrapeAnnotations (has (last .) (list "api" "worker")) -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{- define "plinth.podSpec" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .component -}}
{{- $common := include "plinth.containerCommon" (list $root .component) -}}
{{- include "plinth.podCommon" (list $root $values) }}
serviceAccountName: {{ .account | default (include "plinth.serviceAccountName" (list $root .component)) | quote }}
{{- with .restart }}
restartPolicy: {{ . }}
{{- end }}
{{- with $values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ . | int }}
{{- end }}
securityContext:
  {{- include "plinth.podSecurity" 10001 | nindent 2 }}
{{- if or .wait $values.initContainers }}
initContainers:
  {{- if .wait }}
  # Asks the database and not Kubernetes, so it needs no rights. A newer revision will do: rollbacks start that way.
  - name: wait
    args: [wait, --timeout, "300"]
    {{- $common | nindent 4 }}
  {{- end }}
  {{- with include "plinth.extraContainers" $values.initContainers }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .component }}
    {{- .container | nindent 4 }}
    {{- $common | nindent 4 }}
  {{- with include "plinth.extraContainers" $values.sidecars }}
  {{- . | nindent 2 }}
  {{- end }}
volumes:
  # Nothing but /tmp can be written.
  - name: tmp
    emptyDir:
      sizeLimit: 128Mi
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What our image needs in any container. Takes (list root component). */}}
{{- define "plinth.containerCommon" -}}
{{- $root := first . -}}
{{- $values := index $root.Values (last .) -}}
image: {{ include "plinth.image" (list $root $root.Values.image $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  {{- include "plinth.env" . | nindent 2 }}
{{- with concat $root.Values.extraEnvFrom ($values.extraEnvFrom | default list) }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- include "plinth.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* What every pod of the release has, the databases' too: no rights, no surprises, and where it may run.
Takes (list root values). */}}
{{- define "plinth.podCommon" -}}
{{- $root := first . -}}
{{- $values := last . -}}
automountServiceAccountToken: false
# A variable for each port of each service of the namespace could be taken for a setting.
enableServiceLinks: false
{{- with concat $root.Values.global.imagePullSecrets $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Spread over nodes and zones. Counts the pods of one version, or the old ones would push the new ones together.
Takes (list root component). */}}
{{- define "plinth.topologySpread" -}}
{{- $root := first . -}}
{{- $labels := include "plinth.selectorLabels" . | fromYaml -}}
{{- with (index $root.Values (last .)).topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $defaults := dict "labelSelector" (dict "matchLabels" $labels) "matchLabelKeys" (list "pod-template-hash") }}
  - {{ merge (deepCopy .) $defaults | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The restricted Pod Security Standard, for a pod. Takes the user's number. */}}
{{- define "plinth.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The same for a container, and a root file system that cannot be written. */}}
{{- define "plinth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Containers from the values. One that says nothing of its security gets ours, so the pod stays restricted. */}}
{{- define "plinth.extraContainers" -}}
{{- range . -}}
{{ printf "\n" }}- {{ merge (deepCopy .) (dict "securityContext" (include "plinth.containerSecurity" $ | fromYaml)) | toYaml | nindent 2 | trim }}
{{- end -}}
{{- end -}}
