{{/*
What everything is called after. 40 characters leave room for the longest ending: a StatefulSet's name, and a hash. A release
and a parent chart's alias may have a name that a Service may not have: longer, with a dot, an underscore or capitals, or with
a digit in front. Then it is changed, and a hash of the whole name keeps two of them apart.
*/}}
{{- define "plinth.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full := .Values.fullnameOverride | default $default -}}
{{- if regexMatch "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$" $full -}}
{{ $full }}
{{- else -}}
{{- $letterFirst := ternary (printf "plinth-%s" $full) $full (regexMatch "^[0-9]" $full) -}}
{{ $letterFirst | lower | replace "." "-" | replace "_" "-" | trunc 31 | trimSuffix "-" }}-{{ sha256sum $full | trunc 8 }}
{{- end -}}
{{- end -}}

{{/* A name with an ending of its own, in the 63 characters that a Service's may have. Takes (list root ending). */}}
{{- define "plinth.serviceName" -}}
{{- $name := printf "%s-%s" (include "plinth.fullname" (first .)) (last .) -}}
{{- if gt (len $name) 63 -}}
{{ trunc 54 $name | trimSuffix "-" }}-{{ sha256sum $name | trunc 8 }}
{{- else -}}
{{ $name }}
{{- end -}}
{{- end -}}

{{/* Text as the value of a label, which has 63 characters at most and no plus, and a letter or a digit at either end. */}}
{{- define "plinth.labelValue" -}}
{{ regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (. | replace "+" "_" | trunc 63) "" }}
{{- end -}}

{{/* The labels that a selector looks for, which never change. Takes (list root component). */}}
{{- define "plinth.selectorLabels" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ include "plinth.labelValue" ($root.Values.nameOverride | default $root.Chart.Name) | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* The labels of an object. They change with every version, so pods do not carry them. Takes (list root component). */}}
{{- define "plinth.labels" -}}
{{- $root := first . -}}
{{ include "plinth.selectorLabels" . }}
app.kubernetes.io/version: {{ include "plinth.labelValue" $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ include "plinth.labelValue" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) }}
{{- range $name, $value := $root.Values.commonLabels }}
{{- if not (regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|version|managed-by)|helm\\.sh/chart)$" $name) }}
{{ dict $name $value | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The annotations of an object: the common ones, and its own over them. Begins with a line break and stands where metadata
of an object does, so that none leave no empty line. Takes (list root own). */}}
{{- define "plinth.annotations" -}}
{{- with include "plinth.overlaid" (list (first .).Values.commonAnnotations (last .)) | fromYaml }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* An image's whole name. Takes (list root image defaultTag). */}}
{{- define "plinth.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := ($root.Values.global | default dict).imageRegistry | default $image.registry -}}
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

{{/* Text of the values, with the templates in it filled in. Takes (list root text). */}}
{{- define "plinth.text" -}}
{{- $text := last . | default "" -}}
{{- if contains "{{" $text -}}
{{ tpl $text (first .) }}
{{- else -}}
{{ $text }}
{{- end -}}
{{- end -}}

{{/* A map or a list of the values, as YAML, with the templates in it filled in: one text after the other, so that what comes of
each is one text, whatever it looks like. Takes (list root tree). */}}
{{- define "plinth.filled" -}}
{{- $tree := last . -}}
{{- if contains "{{" (toJson $tree) -}}
{{- $tree = (include "plinth.filledTree" . | fromJson).tree -}}
{{- end -}}
{{ toYaml $tree }}
{{- end -}}

{{/* The same as JSON, under `tree`. */}}
{{- define "plinth.filledTree" -}}
{{- $root := first . -}}
{{- $tree := last . -}}
{{- if kindIs "map" $tree -}}
{{- $filled := dict -}}
{{- range $key, $value := $tree -}}
{{- $_ := set $filled (include "plinth.text" (list $root $key)) (include "plinth.filledTree" (list $root $value) | fromJson).tree -}}
{{- end -}}
{{- $tree = $filled -}}
{{- else if kindIs "slice" $tree -}}
{{- $filled := list -}}
{{- range $tree -}}
{{- $filled = append $filled (include "plinth.filledTree" (list $root .) | fromJson).tree -}}
{{- end -}}
{{- $tree = $filled -}}
{{- else if kindIs "string" $tree -}}
{{- $tree = include "plinth.text" (list $root $tree) -}}
{{- end -}}
{{ dict "tree" $tree | toJson }}
{{- end -}}

{{/* The families of a Service's addresses, where its values name any. Takes those. */}}
{{- define "plinth.ipFamilies" -}}
{{- range $key := list "ipFamilyPolicy" "ipFamilies" }}
{{- with index ($ | default dict) $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}
