{{/* What everything is called after. 40 characters leave room for the longest ending: a StatefulSet's name, and a hash. */}}
{{- define "plinth.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $default | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The labels that a selector looks for, which never change. Takes (list root component). */}}
{{- define "plinth.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ $root.Values.nameOverride | default $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* The labels of an object. They change with every version, so pods do not carry them. Takes (list root component). */}}
{{- define "plinth.labels" -}}
{{- $root := first . -}}
{{ include "plinth.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* An image's whole name. Takes (list root image defaultTag). */}}
{{- define "plinth.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry $image.repository) $image.repository (not (empty $registry)) -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default (index . 2) }}
{{- end -}}
{{- end -}}

{{/* The account of api, worker or migrate. Takes (list root component). */}}
{{- define "plinth.serviceAccountName" -}}
{{- $root := first . -}}
{{- $account := (index $root.Values (last .)).serviceAccount -}}
{{- if $account.create -}}
{{ $account.name | default (printf "%s-%s" (include "plinth.fullname" $root) (last .)) }}
{{- else -}}
{{ $account.name | default "default" }}
{{- end -}}
{{- end -}}
