{{/* Names and labels. */}}
{{- define "signet.labels" -}}
app.kubernetes.io/name: signet
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: signet
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata of an object: dict "root" $ "name" NAME "component" COMPONENT ["namespaced" false] ["annotations" {}] */}}
{{- define "signet.metadata" -}}
name: {{ .name }}
{{- if ne (get . "namespaced" | toString) "false" }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "signet.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- with merge (dict) (get . "annotations" | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "signet.selector" -}}
app.kubernetes.io/name: signet
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image without tag and digest: dict "root" $ "program" NAME "own" VALUES */}}
{{- define "signet.repository" -}}
{{- $image := merge (dict) (.own | default dict) .root.Values.image -}}
{{- if $image.registry }}{{ trimSuffix "/" $image.registry }}/{{ end -}}
{{- if $image.repository }}{{ trimSuffix "/" $image.repository }}/{{ end -}}
{{ .program }}
{{- end }}

{{- define "signet.image" -}}
{{- $image := merge (dict) (.own | default dict) .root.Values.image -}}
{{ include "signet.repository" . }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "signet.pullPolicy" -}}
{{- (merge (dict) (.own | default dict) .root.Values.image).pullPolicy -}}
{{- end }}

{{/* Given, or stored at the first installation, or made from the cluster's id. Immutable. */}}
{{- define "signet.trustDomain" -}}
{{- $stored := "" -}}
{{- $mesh := lookup "v1" "ConfigMap" .Release.Namespace "signet-mesh" -}}
{{- if $mesh }}{{ $stored = get ($mesh.data | default dict) "trust-domain" }}{{ end -}}
{{- $given := .Values.trustDomain -}}
{{- if eq $given "cluster.local" -}}
{{- fail "trustDomain: \"cluster.local\" is the name of every cluster; want one of this mesh alone, such as prod.example" -}}
{{- end -}}
{{- if and $stored $given (ne $stored $given) -}}
{{- fail (printf "trustDomain: %q, but this mesh was installed as %q (ConfigMap signet-mesh), and every identity begins with it; leave trustDomain empty or as it was" $given $stored) -}}
{{- end -}}
{{- $cluster := lookup "v1" "Namespace" "" "kube-system" -}}
{{- if $given }}{{ $given -}}
{{- else if $stored }}{{ $stored -}}
{{- else if $cluster -}}
signet-{{ $cluster.metadata.uid | replace "-" "" | trunc 12 }}.mesh
{{- else -}}
{{- fail "trustDomain: this rendering has no cluster to ask (helm template, --dry-run=client); give one, such as --set trustDomain=prod.example" -}}
{{- end -}}
{{- end }}

{{/* Namespaces that nothing of ours ever looks into: the same list for webhooks and guard. */}}
{{- define "signet.excludedNamespaces" -}}
{{- concat (list "kube-system" "kube-node-lease" .Release.Namespace) .Values.injection.excludedNamespaces | uniq | toJson -}}
{{- end }}

{{/* Repositories whose images are our sidecar, any tag of them. */}}
{{- define "signet.sidecarRepositories" -}}
{{- $own := include "signet.repository" (dict "root" . "program" "signet-sidecar" "own" .Values.sidecar.image) -}}
{{- concat (list $own) .Values.sidecar.otherImages | uniq | toJson -}}
{{- end }}

{{/* Keys of a TOML table from values: those that are given, in the program's spelling. */}}
{{- define "signet.keys" -}}
{{- range $key, $value := . }}
{{- snakecase $key }} = {{ toJson $value }}
{{ end }}
{{- end }}

{{/* Where a program listens: list $ PORT */}}
{{- define "signet.listen" -}}
{{- $address := (index . 0).Values.listenAddress -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end }}:{{ index . 1 }}
{{- end }}

{{- define "signet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "signet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods of a Deployment go: dict "root" $ "component" NAME "values" VALUES */}}
{{- define "signet.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "signet.selector" . | nindent 8 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* A quantity, which may be a number in the values, as text: `1` and `1Gi`, never `1e+09`. */ -}}
{{- define "signet.quantity" -}}
{{- toJson . | trimAll "\"" | toJson -}}
{{- end }}

{{- /* The same as a number, to compare. */ -}}
{{- define "signet.amount" -}}
{{- $text := toJson . | trimAll "\"" -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text) | default 1) -}}
{{- end }}

{{- /* Ports and ranges, (list KEY VALUE): what the schema cannot say is that a range does not end before it begins. */ -}}
{{- define "signet.ports" -}}
{{- $key := index . 0 -}}
{{- range index . 1 -}}
{{- $ends := splitList "-" (toString .) -}}
{{- if gt (int (first $ends)) (int (last $ends)) -}}
{{- fail (printf "%s: the range %s ends before it begins" $key .) -}}
{{- end -}}
{{- end -}}
{{- index . 1 | toJson -}}
{{- end }}

{{- /* Networks, (list KEY VALUE): what the schema cannot say is that there are no address bits beyond the length. */ -}}
{{- define "signet.networks" -}}
{{- $key := index . 0 -}}
{{- range $network := index . 1 -}}
{{- $parts := splitList "/" $network -}}
{{- $length := int (last $parts) -}}
{{- $groups := list -}}
{{- $width := 16 -}}
{{- if contains ":" $network -}}
{{- $halves := splitList "::" (first $parts) -}}
{{- $left := without (splitList ":" (first $halves)) "" -}}
{{- $right := list -}}
{{- if gt (len $halves) 1 -}}
{{- $right = without (splitList ":" (last $halves)) "" -}}
{{- end -}}
{{- range $left }}{{ $groups = append $groups (int64 (printf "0x%s" .)) }}{{ end -}}
{{- range until (int (sub 8 (add (len $left) (len $right)))) }}{{ $groups = append $groups 0 }}{{ end -}}
{{- range $right }}{{ $groups = append $groups (int64 (printf "0x%s" .)) }}{{ end -}}
{{- else -}}
{{- $width = 8 -}}
{{- range splitList "." (first $parts) }}{{ $groups = append $groups (int64 .) }}{{ end -}}
{{- end -}}
{{- range $at, $group := $groups -}}
{{- /* How many low bits of this group lie beyond the length. */ -}}
{{- $beyond := sub (mul (add $at 1) $width) $length | max 0 | min $width | int -}}
{{- $unit := 1 -}}
{{- range until $beyond }}{{ $unit = mul $unit 2 }}{{ end -}}
{{- if ne (mod $group $unit | int) 0 -}}
{{- fail (printf "%s: %s has address bits beyond its length, such as 10.244.0.0/16 has not" $key $network) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- index . 1 | toJson -}}
{{- end }}
