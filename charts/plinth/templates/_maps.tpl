{{/*
Sprig's merge and mergeOverwrite take false, 0 and "" for something that is missing, and replace it. These do not.
*/}}

{{/* A map with the entries of another one in place of its own, as YAML. Takes (list map other). */}}
{{- define "plinth.overlaid" -}}
{{- $map := first . | default dict | deepCopy -}}
{{- range $key, $value := last . -}}
{{- $_ := set $map $key $value -}}
{{- end -}}
{{- toYaml $map -}}
{{- end -}}

{{/* Gives a map what it lacks, at every depth. Takes (list map defaults). */}}
{{- define "plinth.setMissing" -}}
{{- $map := first . -}}
{{- range $key, $default := last . -}}
{{- if kindIs "invalid" (index $map $key) -}}
{{- $_ := set $map $key $default -}}
{{- else if and (kindIs "map" $default) (kindIs "map" (index $map $key)) -}}
{{- include "plinth.setMissing" (list (index $map $key) $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Gives a map the keys that it lacks, at every depth. A key that is null counts as given, and a strategy or a profile that is
given stays as it is: the keys of its types exclude each other. Takes (list map defaults). */}}
{{- define "plinth.inherit" -}}
{{- $map := first . -}}
{{- range $key, $default := last . -}}
{{- if not (hasKey $map $key) -}}
{{- $_ := set $map $key $default -}}
{{- else if has $key (list "strategy" "seccompProfile" "appArmorProfile") -}}
{{- else if and (kindIs "map" $default) (kindIs "map" (index $map $key)) -}}
{{- include "plinth.inherit" (list (index $map $key) $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Removes every key whose value is null, at every depth. Takes the map. */}}
{{- define "plinth.dropNulls" -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $key -}}
{{- else if kindIs "map" $value -}}
{{- include "plinth.dropNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The entries of a list, as YAML. Of those that have a key in common the last one counts, in the place of the first: Kubernetes
refuses two, and a variable may only name one that stands before it. Takes (list entries key).
*/}}
{{- define "plinth.lastOfEach" -}}
{{- $key := last . -}}
{{- $names := list -}}
{{- $entries := dict -}}
{{- range first . -}}
{{- $names = append $names (index . $key) | uniq -}}
{{- $_ := set $entries (index . $key) . -}}
{{- end -}}
{{- $kept := list -}}
{{- range $names -}}
{{- $kept = append $kept (index $entries .) -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}
