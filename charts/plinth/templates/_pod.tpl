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
metadata:
  {{- include "plinth.podMetadata" (list .root .component) | nindent 2 }}
spec:
  {{- include "plinth.podSpec" . | nindent 2 }}
{{- end -}}

{{/* Labels and annotations of a component's pods: the chart's, and over them those of the values. Takes (list root component). */}}
{{- define "plinth.podMetadata" -}}
{{- $values := index (first .).Values (last .) -}}
labels:
  {{- $own := include "plinth.overlaid" (list (first .).Values.commonLabels $values.podLabels) | fromYaml }}
  {{- include "plinth.overlaid" (list $own (include "plinth.selectorLabels" . | fromYaml)) | nindent 2 }}
{{- $annotations := include "plinth.overlaid" (list (include "plinth.scrapeAnnotations" . | fromYaml) (include "plinth.keyAnnotation" (first .) | fromYaml)) | fromYaml }}
{{- with include "plinth.overlaid" (list $annotations $values.podAnnotations) | fromYaml }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How a Prometheus without the operator is told of a pod. Takes (list root component). */}}
{{- define "plinth.scrapeAnnotations" -}}
{{- if and (first .).Values.metrics.scrapeAnnotations (include "plinth.watched" (last .)) -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{- define "plinth.podSpec" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .component -}}
{{- $common := include "plinth.containerCommon" (list $root .component) -}}
{{- include "plinth.podCommon" (list $root .component) }}
serviceAccountName: {{ .account | default (include "plinth.serviceAccountName" (list $root .component)) | quote }}
{{- with .restart }}
restartPolicy: {{ . }}
{{- end }}
{{- with $values.terminationGracePeriodSeconds }}
terminationGracePeriodSeconds: {{ . | int }}
{{- end }}
securityContext:
  {{- include "plinth.podSecurity" (list $root .component) | nindent 2 }}
{{- /* The wait needs the native sidecars, such as a proxy to the database. What stands before the last one stays there. */}}
{{- $own := $values.initContainers | default list }}
{{- $sidecars := 0 }}
{{- range $position, $container := $own }}
{{- if eq ($container.restartPolicy | default "") "Always" }}
{{- $sidecars = add1 $position | int }}
{{- end }}
{{- end }}
{{- if or .wait $own }}
initContainers:
  {{- with include "plinth.extraContainers" (list $root (slice $own 0 $sidecars)) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if .wait }}
  # Asks the database and not Kubernetes, so it needs no rights. A newer revision will do: rollbacks start that way.
  - name: wait
    args: [wait, --timeout, "300"]
    {{- $common | nindent 4 }}
  {{- end }}
  {{- with include "plinth.extraContainers" (list $root (slice $own $sidecars)) }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  - name: {{ include "plinth.containerName" .component }}
    {{- .container | nindent 4 }}
    {{- $common | nindent 4 }}
  {{- with include "plinth.extraContainers" (list $root $values.sidecars) }}
  {{- . | nindent 2 }}
  {{- end }}
volumes:
  # Nothing but /tmp can be written.
  {{- $made := prepend (include "plinth.clusterVolumes" $root | fromYamlArray) (dict "name" "tmp" "emptyDir" (dict "sizeLimit" "128Mi")) }}
  {{- $volumes := include "plinth.lastOfEach" (list (concat $made ($values.extraVolumes | default list)) "name") }}
  {{- include "plinth.filled" (list $root ($volumes | fromYamlArray)) | nindent 2 }}
{{- end -}}

{{/* The name of a component's main container. Takes a component. */}}
{{- define "plinth.containerName" -}}
{{ ternary "worker" . (hasPrefix "worker" .) }}
{{- end -}}

{{/* What our image needs in any container. Takes (list root component). */}}
{{- define "plinth.containerCommon" -}}
{{- $root := first . -}}
{{- $values := index $root.Values (last .) -}}
image: {{ include "plinth.image" (list $root $root.Values.image $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  {{- include "plinth.env" . | nindent 2 }}
{{- with concat ($root.Values.extraEnvFrom | default list) ($values.extraEnvFrom | default list) }}
envFrom:
  {{- include "plinth.filled" (list $root .) | nindent 2 }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  {{- include "plinth.securityContext" . | nindent 2 }}
volumeMounts:
  {{- $made := prepend (include "plinth.clusterMounts" $root | fromYamlArray) (dict "name" "tmp" "mountPath" "/tmp") }}
  {{- include "plinth.lastOfEach" (list (concat $made ($values.extraVolumeMounts | default list)) "mountPath") | nindent 2 }}
{{- end -}}

{{/* The Secrets to pull images with, each once. A parent chart may name them as text, or give none. */}}
{{- define "plinth.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat ((.Values.global | default dict).imagePullSecrets | default list) (.Values.image.pullSecrets | default list) -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{ include "plinth.lastOfEach" (list $secrets "name") }}
{{- end -}}

{{/* What every pod of the release has, the databases' too: no rights, no surprises, and where it may run.
Takes (list root component). */}}
{{- define "plinth.podCommon" -}}
{{- $root := first . -}}
{{- $values := index $root.Values (last .) -}}
automountServiceAccountToken: {{ ($values.serviceAccount | default dict).automount | default false }}
# A variable for each port of each service of the namespace could be taken for a setting.
enableServiceLinks: false
{{- with include "plinth.pullSecrets" $root | fromYamlArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" "nodeSelector" "tolerations" "hostAliases" "dnsConfig" }}
{{- with index $values $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- with include "plinth.affinity" . | fromYaml }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The affinity of the values. Replicas prefer different zones unless it says something else of pods: by a preference,
which says nothing of nodes without the label, and not by a constraint beside that on nodes, which would have the
scheduler score no node that lacks it. Takes (list root component). */}}
{{- define "plinth.affinity" -}}
{{- $values := index (first .).Values (last .) -}}
{{- $affinity := $values.affinity | default dict | deepCopy -}}
{{- if and (hasKey $values "replicas") (not (hasKey $affinity "podAntiAffinity")) -}}
{{- $labels := include "plinth.selectorLabels" . | fromYaml -}}
{{- $term := dict
      "topologyKey" "topology.kubernetes.io/zone"
      "labelSelector" (dict "matchLabels" $labels)
      "matchLabelKeys" (list "pod-template-hash") -}}
{{- $preference := list (dict "weight" 100 "podAffinityTerm" $term) -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $preference) -}}
{{- end -}}
{{ toYaml $affinity }}
{{- end -}}

{{/* Spread over nodes. Counts the pods of one version, or the old ones would push the new ones together.
Takes (list root component). */}}
{{- define "plinth.topologySpread" -}}
{{- $root := first . -}}
{{- $labels := include "plinth.selectorLabels" . | fromYaml -}}
{{- with (index $root.Values (last .)).topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := deepCopy . }}
  {{- if not .labelSelector }}
  {{- include "plinth.setMissing" (list $constraint (dict "labelSelector" (dict "matchLabels" $labels) "matchLabelKeys" (list "pod-template-hash"))) }}
  {{- end }}
  - {{ toYaml $constraint | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The restricted Pod Security Standard for a pod, and its values over that. Takes (list root component). */}}
{{- define "plinth.podSecurity" -}}
{{- $root := first . -}}
{{- $user := ternary 999 10001 (has (last .) (list "postgresql" "redis")) -}}
{{- $context := dict
      "runAsNonRoot" true
      "fsGroupChangePolicy" "OnRootMismatch"
      "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if ne $root.Values.securityPreset "openshift" -}}
{{- $context = merge $context (dict "runAsUser" $user "runAsGroup" $user "fsGroup" $user) -}}
{{- end -}}
{{ include "plinth.contextOver" (list $context (index $root.Values (last .)).podSecurityContext) }}
{{- end -}}

{{/* The same for a container of the chart. Takes (list root component). */}}
{{- define "plinth.securityContext" -}}
{{- $context := include "plinth.containerSecurity" . | fromYaml -}}
{{ include "plinth.contextOver" (list $context (index (first .).Values (last .)).securityContext) }}
{{- end -}}

{{/* A security context with that of the values over it, in which null takes a key out. Takes (list context values). */}}
{{- define "plinth.contextOver" -}}
{{- $context := last . | default dict | deepCopy -}}
{{- include "plinth.inherit" (list $context (first .)) -}}
{{- include "plinth.dropNulls" $context -}}
{{ toYaml $context }}
{{- end -}}

{{/* The restricted standard for a container, and a root file system that cannot be written. */}}
{{- define "plinth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Containers from the values. What one does not say of its security is ours, so the pod stays restricted; a privileged one
can be none of it. Takes (list root containers). */}}
{{- define "plinth.extraContainers" -}}
{{- $root := first . -}}
{{- $containers := list -}}
{{- range last . -}}
{{- $container := deepCopy . -}}
{{- if not (.securityContext | default dict).privileged -}}
{{- include "plinth.setMissing" (list $container (dict "securityContext" (include "plinth.containerSecurity" $ | fromYaml))) -}}
{{- end -}}
{{- $containers = append $containers $container -}}
{{- end -}}
{{- with $containers -}}
{{ include "plinth.filled" (list $root .) }}
{{- end -}}
{{- end -}}
