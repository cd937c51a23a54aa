{{/*
Who is injected into. Webhooks and guard are both rendered from here, so that they never disagree:

  namespace label     pod annotation     injected
  enabled             none, enabled      yes
  anything            disabled           no
  none, disabled      enabled            yes
  none, disabled      none               no
  a typo              refused by signet-labels when it is written
  anything            a typo             refused by signet-guard

Every expression is total: an error in one would stop pods. They take `object` (a Pod).
*/}}
{{- define "signet.cel.annotated" -}}
has(object.metadata.annotations) && 'signet.dev/inject' in object.metadata.annotations
{{- end }}
{{- define "signet.cel.annotation" -}}
({{ include "signet.cel.annotated" . }} ? object.metadata.annotations['signet.dev/inject'] : '')
{{- end }}
{{- define "signet.cel.hostNetwork" -}}
has(object.spec.hostNetwork) && object.spec.hostNetwork
{{- end }}
{{/* Static pods are the kubelet's; what the API server has of them is a picture. */}}
{{- define "signet.cel.mirror" -}}
has(object.metadata.annotations) && 'kubernetes.io/config.mirror' in object.metadata.annotations
{{- end }}
{{/* A list of strings, without its brackets. */}}
{{- define "signet.cel.strings" -}}
{{- range $i, $text := . }}{{ if $i }}, {{ end }}'{{ $text }}'{{ end -}}
{{- end }}
{{- define "signet.namespaceSelector.others" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: {{ include "signet.excludedNamespaces" . }}
{{- end }}
