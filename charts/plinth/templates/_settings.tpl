{{/*
local for a try-out, production for everything else, unless the values say it. A try-out is what has neither a database
nor an identity provider of its own.
*/}}
{{- define "plinth.environment" -}}
{{- $own := or .Values.externalDatabase.existingSecret .Values.cloudnativepg.enabled -}}
{{- $tryOut := and (not $own) (eq (include "plinth.authProvider" .) "local") -}}
{{- .Values.environment | default (ternary "local" "production" $tryOut) -}}
{{- end -}}

{{/* Non-empty where others can reach the service, so that nothing made for development is accepted. */}}
{{- define "plinth.deployed" -}}
{{- if has (include "plinth.environment" .) (list "staging" "production") }}true{{ end -}}
{{- end -}}

{{/* Non-empty behind a transaction pooler. The setting is read as the application reads it, since it may be text. */}}
{{- define "plinth.transactionPooler" -}}
{{- if has (include "plinth.text" (list . (toString .Values.config.DB_TRANSACTION_POOLER)) | lower) (list "true" "yes" "on" "t" "y" "1") }}true{{ end -}}
{{- end -}}

{{- define "plinth.authProvider" -}}
{{- .Values.config.AUTH_PROVIDER | default "local" -}}
{{- end -}}

{{/* The settings of a component, its own over the common ones and with their templates filled in, as YAML. Takes (list root
component). */}}
{{- define "plinth.config" -}}
{{- $root := first . -}}
{{- $config := include "plinth.overlaid" (list $root.Values.config (index $root.Values (last .)).config) | fromYaml -}}
{{- if and (eq (last .) "migrate") $root.Values.externalDatabase.directKey -}}
{{- $_ := set $config "DB_TRANSACTION_POOLER" false -}}
{{- end -}}
{{- if and (ne (last .) "migrate") $root.Values.cloudnativepg.pooler.enabled -}}
{{- $_ := set $config "DB_TRANSACTION_POOLER" true -}}
{{- end -}}
{{- range $name, $value := $config -}}
{{- $text := include "plinth.scalar" $value -}}
{{- if contains "{{" $text -}}
{{- $_ := set $config $name (include "plinth.text" (list $root $text)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What every path of the API begins with. */}}
{{- define "plinth.apiPrefix" -}}
{{- (include "plinth.config" (list . "api") | fromYaml).API_V1_STR -}}
{{- end -}}

{{/* A value as an environment variable spells it. Helm reads every number as a float: 1048576 would be 1.048576e+06. */}}
{{- define "plinth.scalar" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "map" . -}}
{{ toJson . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* Where a secret comes from. Takes (list secretName key). */}}
{{- define "plinth.fromSecret" -}}
valueFrom:
  secretKeyRef:
    name: {{ first . | quote }}
    key: {{ last . | quote }}
{{- end -}}

{{- define "plinth.databaseSecret" -}}
{{- $ours := ternary (printf "%s-app" (include "plinth.clusterName" .)) (printf "%s-postgresql" (include "plinth.fullname" .)) .Values.cloudnativepg.enabled -}}
{{- include "plinth.text" (list . .Values.externalDatabase.existingSecret) | default $ours -}}
{{- end -}}

{{/* The key of the URL in that Secret. */}}
{{- define "plinth.databaseKey" -}}
{{- $ours := ternary "uri" "DATABASE_URL" .Values.cloudnativepg.enabled -}}
{{- ternary .Values.externalDatabase.key $ours (not (empty .Values.externalDatabase.existingSecret)) -}}
{{- end -}}

{{/* The same, bypassing a transaction pooler. */}}
{{- define "plinth.directDatabaseKey" -}}
{{- .Values.externalDatabase.directKey | default (include "plinth.databaseKey" .) -}}
{{- end -}}

{{/* The environment of a component's containers. Takes (list root component). */}}
{{- define "plinth.env" -}}
{{- include "plinth.lastOfEach" (list (include "plinth.variables" . | fromYamlArray) "name") -}}
{{- end -}}

{{/*
The chart's variables and those of the values; a name may come twice. Settings stand in the pod template itself, so that a
changed one rolls the pods out and there is no checksum to forget. Takes (list root component).
*/}}
{{- define "plinth.variables" -}}
{{- $root := first . -}}
{{- $component := last . -}}
- name: ENVIRONMENT
  value: {{ include "plinth.environment" $root }}
{{- range $name, $value := include "plinth.config" . | fromYaml }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ include "plinth.scalar" $value | quote }}
{{- end }}
{{- end }}
- name: METRICS_PORT
  value: "9090"
{{- if $root.Values.cloudnativepg.enabled }}
{{- include "plinth.clusterVariables" . }}
{{- else }}
{{- $key := include (ternary "plinth.directDatabaseKey" "plinth.databaseKey" (eq $component "migrate")) $root }}
- name: DATABASE_URL
  {{- include "plinth.fromSecret" (list (include "plinth.databaseSecret" $root) $key) | nindent 2 }}
{{- if and (eq $component "api") $root.Values.externalDatabase.replicaKey }}
- name: DATABASE_REPLICA_URL
  {{- include "plinth.fromSecret" (list (include "plinth.databaseSecret" $root) $root.Values.externalDatabase.replicaKey) | nindent 2 }}
{{- end }}
{{- end }}
{{- with $root.Values.externalRedis.existingSecret }}
- name: REDIS_URL
  {{- include "plinth.fromSecret" (list (include "plinth.text" (list $root .)) $root.Values.externalRedis.key) | nindent 2 }}
{{- else }}
{{- if $root.Values.redis.enabled }}
- name: REDIS_URL
  {{- include "plinth.fromSecret" (list (printf "%s-redis-auth" (include "plinth.fullname" $root)) "REDIS_URL") | nindent 2 }}
{{- end }}
{{- end }}
- name: SECRET_KEY
  {{- include "plinth.fromSecret" (list (include "plinth.keySecret" $root) $root.Values.secretKey.key) | nindent 2 }}
{{- if and (eq $component "tests") $root.Values.tests.tokenSecret }}
- name: TOKEN
  {{- include "plinth.fromSecret" (list (include "plinth.text" (list $root $root.Values.tests.tokenSecret)) "TOKEN") | nindent 2 }}
{{- end }}
{{- if include "plinth.watched" $component }}
{{- include "plinth.tracingEnv" . }}
{{- end }}
{{- range concat ($root.Values.extraEnv | default list) ((index $root.Values $component).extraEnv | default list) }}
- {{ include "plinth.filled" (list $root .) | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/*
Traces, by the variables that OpenTelemetry has for them. Kubernetes puts the downward API's values into the attributes,
which may only name variables that stand before them. Takes (list root component).
*/}}
{{- define "plinth.tracingEnv" -}}
{{- $root := first . -}}
{{- with $root.Values.tracing -}}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .ratio | toString | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ include "plinth.fullname" $root }}-{{ last $ }}
{{- range $name, $field := dict "K8S_NAMESPACE_NAME" "metadata.namespace" "K8S_NODE_NAME" "spec.nodeName" "K8S_POD_NAME" "metadata.name" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $field }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "plinth.resourceAttributes" $root | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "plinth.resourceAttributes" -}}
{{- $attributes := dict
      "k8s.namespace.name" "$(K8S_NAMESPACE_NAME)"
      "k8s.node.name" "$(K8S_NODE_NAME)"
      "k8s.pod.name" "$(K8S_POD_NAME)"
      "service.version" (.Values.image.tag | default .Chart.AppVersion)
      "deployment.environment.name" (include "plinth.environment" .) -}}
{{- $pairs := list -}}
{{- range $name, $value := include "plinth.overlaid" (list $attributes .Values.tracing.resourceAttributes) | fromYaml -}}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) -}}
{{- end -}}
{{ join "," $pairs }}
{{- end -}}

{{/* The port of the collector, for the network policy. */}}
{{- define "plinth.collectorPort" -}}
{{- $url := urlParse .Values.tracing.endpoint -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- .Values.networkPolicy.collectorPort | default $port | int -}}
{{- end -}}

{{/* The ports of the identity provider, for the network policy, as a JSON list. */}}
{{- define "plinth.identityPorts" -}}
{{- $ports := list -}}
{{- $config := include "plinth.config" (list . "api") | fromYaml -}}
{{- range list "OIDC_ISSUER" "OIDC_JWKS_URL" "CLERK_ISSUER" "SUPABASE_URL" -}}
{{- range splitList "," (include "plinth.scalar" (index $config . | default "")) -}}
{{- with trim . -}}
{{- $port := regexFind ":[0-9]+$" (regexFind "^[a-z]+://[^/]+" .) | trimPrefix ":" -}}
{{- $ports = append $ports ($port | default (ternary "80" "443" (hasPrefix "http://" .)) | int) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ with .Values.networkPolicy.identityProviderPort }}{{ list (int .) | toJson }}{{ else }}{{ $ports | default (list 443) | uniq | toJson }}{{ end }}
{{- end -}}

{{/* Non-empty where there is an external Redis, by its URL or by the names of Upstash. */}}
{{- define "plinth.externalRedis" -}}
{{- .Values.externalRedis.existingSecret | default (include "plinth.upstash" .) -}}
{{- end -}}

{{/* The name of the setting that has the URL of Upstash's Redis, if one has. */}}
{{- define "plinth.upstash" -}}
{{- $found := "" -}}
{{- $names := list "UPSTASH_REDIS_URL" "UPSTASH_REDIS_REST_URL" -}}
{{- $parts := list .Values .Values.api .Values.migrate -}}
{{- range include "plinth.workers" . | fromJsonArray }}{{ $parts = append $parts (index $.Values .) }}{{ end -}}
{{- range $part := $parts -}}
{{- range $name := $names }}{{ if index ($part.config | default dict) $name }}{{ $found = $name }}{{ end }}{{ end -}}
{{- range $part.extraEnv }}{{ if has .name $names }}{{ $found = .name }}{{ end }}{{ end -}}
{{- end -}}
{{- $found -}}
{{- end -}}

{{/* The Secret of the key that signs: the values name it or hold what is in it. */}}
{{- define "plinth.keySecret" -}}
{{- include "plinth.text" (list . .Values.secretKey.existingSecret) | default (printf "%s-key" (include "plinth.fullname" .)) -}}
{{- end -}}

{{/* Rolls out the pods that have read the key of the values, or a password that is made of it. */}}
{{- define "plinth.keyAnnotation" -}}
{{- with .Values.secretKey.value -}}
checksum/secret-key: {{ sha256sum . | trunc 16 | quote }}
{{- end -}}
{{- end -}}

{{/*
The password of a try-out's server. It is made of the key, so no render makes another one. Of a key in a Secret the chart
knows nothing: the password is well known then, and the network policy has to be on. Takes (list root server).
*/}}
{{- define "plinth.serverPassword" -}}
{{- $key := (first .).Values.secretKey.value -}}
{{- ternary (printf "%s %s" (last .) $key | sha256sum) "for-trying-out-only" (not (empty $key)) -}}
{{- end -}}
