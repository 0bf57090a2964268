{{/* The name of the Cluster, from which the operator makes those of its Services and Secrets. It takes 50 characters. */}}
{{- define "plinth.clusterName" -}}
{{ include "plinth.fullname" . }}-database
{{- end -}}

{{/* The name of its Pooler, and of the Service before that. */}}
{{- define "plinth.poolerName" -}}
{{ include "plinth.fullname" . }}-pooler
{{- end -}}

{{/* Where pods find a Service of the Cluster or of its Pooler. Takes (list root name). */}}
{{- define "plinth.clusterHost" -}}
{{ last . }}.{{ (first .).Release.Namespace }}
{{- end -}}

{{/* The spec of the Cluster: that of the values, and what the chart says of the rest. */}}
{{- define "plinth.clusterSpec" -}}
{{- $values := .Values.cloudnativepg -}}
{{- $spec := $values.spec | default dict | deepCopy -}}
{{- $parameters := dict "max_connections" ($values.maxConnections | int | toString) -}}
{{- $postgresql := dict -}}
{{- /* A commit waits until one standby has it, or the newest ones would be lost with the primary. So after a failover writes
wait for a standby that follows the new one, which by default looks for it every 5 s. */ -}}
{{- if gt ($spec.instances | default $values.instances | int) 1 -}}
{{- /* The operator refuses both ways to say it. */ -}}
{{- if not (or $spec.minSyncReplicas $spec.maxSyncReplicas) -}}
{{- $_ := set $postgresql "synchronous" (dict "method" "any" "number" 1) -}}
{{- end -}}
{{- $_ := set $parameters "wal_retrieve_retry_interval" "1s" -}}
{{- end -}}
{{- $_ := set $postgresql "parameters" (include "plinth.overlaid" (list $parameters $values.parameters) | fromYaml) -}}
{{- $storage := dict "size" $values.storage.size -}}
{{- with $values.storage.className -}}
{{- $_ := set $storage "storageClass" . -}}
{{- end -}}
{{- /* A smart shutdown refuses new connections and waits for the open ones to end, three minutes by default. Those of a pool
never end by themselves. */ -}}
{{- $made := dict
      "instances" (int $values.instances)
      "imagePullPolicy" $values.image.pullPolicy
      "storage" $storage
      "smartShutdownTimeout" 0
      "postgresql" $postgresql -}}
{{- /* The Pooler shows the servers' certificate. The operator adds no name to one that the values bring. */ -}}
{{- $certificates := $spec.certificates | default dict -}}
{{- if and $values.pooler.enabled (not $certificates.serverTLSSecret) -}}
{{- $names := append ($certificates.serverAltDNSNames | default list) (include "plinth.clusterHost" (list . (include "plinth.poolerName" .))) -}}
{{- $_ := set $spec "certificates" (set $certificates "serverAltDNSNames" ($names | uniq)) -}}
{{- end -}}
{{- with $values.resources -}}
{{- $_ := set $made "resources" . -}}
{{- end -}}
{{- with include "plinth.pullSecrets" . | fromYamlArray -}}
{{- $_ := set $made "imagePullSecrets" . -}}
{{- end -}}
{{- /* The operator takes one of the two. */ -}}
{{- if not (hasKey $spec "imageCatalogRef") -}}
{{- $_ := set $made "imageName" (include "plinth.image" (list . $values.image "")) -}}
{{- end -}}
{{- include "plinth.inherit" (list $spec $made) -}}
{{- include "plinth.dropNulls" $spec -}}
{{ toYaml $spec }}
{{- end -}}

{{/* The spec of its Pooler, likewise. */}}
{{- define "plinth.poolerSpec" -}}
{{- $values := .Values.cloudnativepg.pooler -}}
{{- /* PgBouncer waits for 15 s after a try that failed, in which a new primary would be of no use. */ -}}
{{- $parameters := dict
      "default_pool_size" ($values.poolSize | int | toString)
      "max_client_conn" ($values.maxClients | int | toString)
      "server_login_retry" "1" -}}
{{- $made := dict
      "cluster" (dict "name" (include "plinth.clusterName" .))
      "type" "rw"
      "instances" (int $values.instances)
      "pgbouncer" (dict "poolMode" "transaction" "parameters" $parameters) -}}
{{- $spec := $values.spec | default dict | deepCopy -}}
{{- include "plinth.inherit" (list $spec $made) -}}
{{- include "plinth.dropNulls" $spec -}}
{{ toYaml $spec }}
{{- end -}}

{{/* Selects the pods of the Cluster, by the operator's label. */}}
{{- define "plinth.clusterPods" -}}
matchLabels:
  cnpg.io/cluster: {{ include "plinth.clusterName" . | quote }}
{{- end -}}

{{/*
The variables with the URL of the Cluster. The operator's says nothing of TLS, which a deployment wants; what a parameter
says comes before the rest of a URL. A migration bypasses the Pooler, and the API alone reads from standbys.
Takes (list root component).
*/}}
{{- define "plinth.clusterVariables" -}}
{{- $root := first . }}
{{- $name := include "plinth.clusterName" $root }}
{{- $pooler := and $root.Values.cloudnativepg.pooler.enabled (ne (last .) "migrate") }}
{{- $tls := "sslmode=verify-full&sslrootcert=/run/database-ca/ca.crt" }}
- name: CLUSTER_URI
  {{- include "plinth.fromSecret" (list (printf "%s-app" $name) "uri") | nindent 2 }}
- name: DATABASE_URL
  value: $(CLUSTER_URI)?{{ if $pooler }}host={{ include "plinth.clusterHost" (list $root (include "plinth.poolerName" $root)) }}&{{ end }}{{ $tls }}
{{- if and $root.Values.cloudnativepg.readReplicas (eq (last .) "api") }}
- name: DATABASE_REPLICA_URL
  value: $(CLUSTER_URI)?host={{ include "plinth.clusterHost" (list $root (printf "%s-ro" $name)) }}&{{ $tls }}
{{- end }}
{{- end -}}

{{/* The volumes that pods of our image have for it, and where, as lists: the authority that signs the servers' certificates. */}}
{{- define "plinth.clusterVolumes" -}}
{{- if .Values.cloudnativepg.enabled }}
{{- $own := printf "%s-ca" (include "plinth.clusterName" .) }}
- name: database-ca
  secret:
    secretName: {{ dig "certificates" "serverCASecret" $own (include "plinth.clusterSpec" . | fromYaml) | quote }}
    # Its private key is in the Secret as well.
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}
{{- define "plinth.clusterMounts" -}}
{{- if .Values.cloudnativepg.enabled }}
- {name: database-ca, mountPath: /run/database-ca, readOnly: true}
{{- end }}
{{- end -}}
